import { rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { systemClock } from "@tributary/proto/host/clock.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { readSecretFile } from "@tributary/proto/identity/secret-file.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type DeviceConfig, isSecure } from "./config.js";
import { enrolDevice } from "./enrol.js";
import type { ReportedEvent } from "./events.js";
import { type DeviceIdentity, openIdentity } from "./identity.js";
import { baseDirOf } from "./trainer-module.js";

/** Brings the devices of one process into their fleet, those that are not in it yet by one claim. */
export type Joining = {
  /**
   * Begins a device as soon as it has an identity: at once where it has one. Throws `config-identity`
   * where there is neither an identity nor a claim, and what keeps it from being read.
   */
  join(device: string, begin: (identity: DeviceIdentity) => Promise<void>): Promise<void>;
  /** All have been named: the claim is forgotten once none needs it any more. */
  all(): void;
  /** Rejects when one is refused for good, or does not begin. */
  readonly failed: Promise<never>;
  close(): Promise<void>;
};

/** Undefined where devices have no identity. */
export function createJoining(
  { file }: { readonly file?: string | undefined },
  config: DeviceConfig,
  onEvent: (event: ReportedEvent) => void,
): Joining | undefined {
  const { site, gateway, dataDir, claimFile } = config;
  if (!isSecure(config) || dataDir === undefined) return undefined;
  const base = baseDirOf(file);
  const claimPath = claimFile === undefined ? undefined : resolve(base, claimFile);
  const aborting = new AbortController();
  const { signal } = aborting;
  const joining: Promise<void>[] = [];
  let fail: (cause: unknown) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {});

  async function readClaim(device: string): Promise<string> {
    const text = claimPath && (await readSecretFile(claimPath).catch(missing));
    if (text !== undefined) return text;
    const where =
      claimPath === undefined ? "name its file in claimFile" : `write it to ${claimPath}`;
    throw new TributaryError(
      "config-identity",
      `${device} is not enrolled, and there is no claim to enrol it with: make one for it with \`tributary claim create\`, and ${where}`,
    );
  }

  return {
    async join(device, begin) {
      const place = { dir: join(resolve(base, dataDir), device, "identity"), device, site };
      const known = await openIdentity(place);
      if (known !== undefined) return begin(known);
      const claim = await readClaim(device);
      const report: Parameters<typeof enrolDevice>[0]["report"] = (event) =>
        onEvent({ ...event, device });
      const world = { clock: systemClock(), random: systemRandom(), signal, report };
      const one = enrolDevice({ ...place, ...world, gateway, claim }).then(begin);
      joining.push(one);
      one.catch((cause: unknown) => {
        if (signal.aborted) return;
        const code = cause instanceof TributaryError ? cause.code : "internal";
        const message = cause instanceof Error ? cause.message : String(cause);
        report({ level: "error", name: "enrolment-failed", code, message });
        fail(cause);
      });
    },
    all() {
      if (claimPath === undefined) return;
      Promise.all(joining).then(
        () => rm(claimPath, { force: true }),
        () => {},
      );
    },
    failed,
    async close() {
      aborting.abort();
      await Promise.allSettled(joining);
    },
  };
}

function missing(cause: unknown): undefined {
  if (cause instanceof TributaryError && cause.code === "secret-missing") return undefined;
  throw cause;
}
