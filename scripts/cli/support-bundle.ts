import { link, open, rename, rm, stat } from "node:fs/promises";
import { resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { redact } from "@tributary/proto/host/config.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import { type Command, Option } from "commander";
import { pack } from "tar-stream";
import { stringify } from "yaml";
import { firstOf } from "./api.js";
import { examine, type TierName, tiers } from "./check.js";
import { CommandFailure, reasonOf } from "./failure.js";
import { gatewayPageUrl, readStatus } from "./gateway-status.js";
import {
  certificateText,
  json,
  listingText,
  logName,
  machineText,
  type Part,
  partOr,
  tailText,
  unitText,
} from "./support-bundle-parts.js";
import { redactText } from "./support-bundle-redaction.js";
import { bytes } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

type BundleOptions = GlobalOptions & {
  readonly config?: string;
  readonly tier: TierName;
  readonly out: string;
  readonly log: readonly string[];
  readonly unit?: string;
  readonly force?: boolean;
};

/** Adds `support-bundle`: what somebody who helps needs to see, without what opens a door. */
export function addSupportBundle(program: Command, world: World, version: string): void {
  program
    .command("support-bundle")
    .description("gather what somebody who helps needs to see, with secrets hidden, in one file")
    .requiredOption("--out <file>", "where to: a .tar.gz that its owner alone may read")
    .option("--config <file>", "YAML or JSON; without it the environment alone counts")
    .addOption(new Option("--tier <name>", "whose config it is").choices(tiers).default("gateway"))
    .option("--log <file>", "the end of a log as well; may be repeated", collect, [])
    .option("--unit <name>", "what systemd has noted of this unit as well")
    .option("--force", "replace a file that exists")
    .addHelpText(
      "after",
      `
In it: the config, what \`tributary check\` finds, the gateway's status or the
cloud's fleet and events, names and sizes of files, the certificate, logs.
Not in it: keys, claims, tokens, passwords, models, data. Look before you send
it: tar -xzf FILE.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<BundleOptions>();
      const parts = await gather(world, options);
      const hidden = parts.map(({ name, text }) => ({ name, ...redactText(text) }));
      const places = hidden.reduce((sum, part) => sum + part.places, 0);
      const manifest = json({
        version,
        tier: options.tier,
        madeAt: new Date(world.nowMs()).toISOString(),
        parts: hidden.map(({ name, text, places }) => ({
          name,
          chars: text.length,
          hidden: places,
        })),
      });
      const file = resolve(options.out);
      const size = await write(file, [{ name: "manifest.json", text: manifest }, ...hidden], {
        force: options.force === true,
        nowMs: world.nowMs(),
      });
      show(
        world,
        options,
        { file, bytes: size, parts: hidden.length, hidden: places },
        () => `${file}: ${bytes(size)}, ${hidden.length} parts, ${places} secrets hidden\n`,
      );
    });
}

function collect(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}

async function gather(world: World, options: BundleOptions): Promise<Part[]> {
  const { config: file, tier, log, unit } = options;
  const source = { file, env: world.env };
  const parts = [
    { name: "machine.json", text: machineText(world.env) },
    await partOr("check.json", async () => json(await examine(world, options))),
  ];
  const read = await readConfig(tier, source).catch((error: unknown) => {
    parts.push({ name: "config.yaml.missing", text: `${reasonOf(error)}\n` });
    return undefined;
  });
  if (read !== undefined) {
    parts.push({ name: "config.yaml", text: stringify(redact(read.config, read.secretKeys)) });
    const { dataDir } = read.config;
    if (dataDir !== undefined) {
      parts.push(await partOr("files.json", () => listingText(dataDir)));
      if (tier !== "cloud")
        parts.push(await partOr("certificate.json", () => certificateText(dataDir)));
    }
  }
  if (tier === "gateway")
    parts.push(
      await partOr("status.json", async () => json(await readStatus(pageOf(options, read)))),
    );
  if (tier === "cloud") parts.push(...(await cloudParts(world, options)));
  for (const [at, path] of log.entries())
    parts.push(await partOr(logName(at, path), () => tailText(path)));
  if (unit !== undefined) parts.push(await partOr("logs/unit.log", () => unitText(unit)));
  return parts;
}

/** What of a tier's config the bundle goes by. */
type Read = {
  readonly config: {
    readonly dataDir?: string | undefined;
    readonly status?: { readonly host: string; readonly port: number };
  };
  readonly secretKeys: readonly string[];
};

async function readConfig(
  tier: TierName,
  source: { readonly file: string | undefined; readonly env: World["env"] },
): Promise<Read> {
  switch (tier) {
    case "gateway": {
      const { readGatewayConfig } = await import("@tributary/gateway/main.js");
      return { config: await readGatewayConfig(source), secretKeys: [] };
    }
    case "cloud": {
      const { readCloudConfig } = await import("@tributary/cloud/main.js");
      const { secretKeys } = await import("@tributary/cloud/config.js");
      return { config: await readCloudConfig(source), secretKeys };
    }
    case "device": {
      const { loadDeviceConfig } = await import("@tributary/device-sdk/main.js");
      return { config: await loadDeviceConfig(source), secretKeys: ["options"] };
    }
  }
}

function pageOf({ url }: BundleOptions, read: Read | undefined): string {
  const status = read?.config.status;
  if (url !== undefined) return url;
  if (status === undefined)
    throw new Error("the config, which says where the page is, cannot be read");
  return gatewayPageUrl(status);
}

async function cloudParts(world: World, options: BundleOptions): Promise<Part[]> {
  const api = apiOf(world, options);
  const listed = (name: string, read: () => Promise<unknown>) =>
    partOr(name, async () => json(await read()));
  return [
    await listed("gateways.json", () => firstOf(api.gateways())),
    await listed("sessions.json", () => firstOf(api.sessions())),
    await listed("denylist.json", () => api.denylistSpread()),
    await listed("alarms.json", () => api.alarms()),
  ];
}

/** Writes the file in one step; resolves with its size in bytes. */
async function write(
  file: string,
  parts: readonly Part[],
  { force, nowMs }: { readonly force: boolean; readonly nowMs: number },
): Promise<number> {
  const partial = `${file}.${process.pid}.partial`;
  try {
    const handle = await open(partial, "wx", 0o600);
    const tar = pack();
    for (const { name, text } of parts)
      tar.entry({ name: `support-bundle/${name}`, mode: 0o600, mtime: new Date(nowMs) }, text);
    tar.finalize();
    await pipeline(tar, createGzip(), handle.createWriteStream({ flush: true }));
    if (force) await rename(partial, file);
    else await link(partial, file);
    return (await stat(file)).size;
  } catch (error) {
    const exists = error instanceof Error && "code" in error && error.code === "EEXIST";
    const message = exists
      ? `${file} exists; choose another name, or replace it with --force`
      : `cannot write ${file}: ${reasonOf(error)}`;
    const code = exists ? "file-exists" : "cannot-write";
    throw new CommandFailure(code, message, exitCodes.cannotWrite, error);
  } finally {
    await rm(partial, { force: true });
  }
}
