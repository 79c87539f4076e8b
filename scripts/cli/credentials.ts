import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { readSecretFile, writeSecretFile } from "@tributary/proto/identity/secret-file.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { z } from "zod";
import type { Credentials } from "./exchange.js";
import { reasonOf, usageFailure } from "./failure.js";
import { cliLimits } from "./limits.js";
import type { World } from "./world.js";

type Env = World["env"];

const fileSchema = z.strictObject({
  version: z.literal(1),
  /** By the URL of a cloud, as it is given. */
  clouds: z.record(
    z.string(),
    z.strictObject({ token: z.string(), anchors: z.array(z.string()).optional() }),
  ),
});
type Kept = z.infer<typeof fileSchema>;

/** Where `tributary login` keeps tokens: `$XDG_CONFIG_HOME/tributary/credentials.json`, mode 0600. */
export function credentialsFile({ XDG_CONFIG_HOME: config, HOME: home }: Env): string {
  const base = config === undefined || config === "" ? join(home ?? homedir(), ".config") : config;
  return join(base, "tributary", "credentials.json");
}

/** TRIBUTARY_TOKEN and TRIBUTARY_ANCHORS, a file, before what was kept for the cloud. */
export async function credentialsFor(env: Env, url: string): Promise<Credentials> {
  const { TRIBUTARY_TOKEN: token, TRIBUTARY_ANCHORS: anchors } = env;
  const kept = token === undefined || anchors === undefined ? await read(env) : undefined;
  const own = kept?.clouds[keyOf(url)];
  return {
    token: token ?? own?.token,
    anchors: anchors === undefined ? own?.anchors : await readAnchors(anchors),
  };
}

export async function keepCredentials(
  env: Env,
  url: string,
  credentials:
    | { readonly token: string; readonly anchors?: readonly string[] | undefined }
    | undefined,
): Promise<string> {
  const file = credentialsFile(env);
  const { [keyOf(url)]: _former, ...others } = (await read(env)).clouds;
  const own = credentials && {
    token: credentials.token,
    ...(credentials.anchors && { anchors: [...credentials.anchors] }),
  };
  const next: Kept = { version: 1, clouds: { ...others, ...(own && { [keyOf(url)]: own }) } };
  await writeSecretFile(file, `${JSON.stringify(next, null, 2)}\n`, { replace: true });
  return file;
}

async function read(env: Env): Promise<Kept> {
  const file = credentialsFile(env);
  try {
    return fileSchema.parse(JSON.parse(await readSecretFile(file)));
  } catch (error) {
    if (error instanceof TributaryError && error.code === "secret-missing")
      return { version: 1, clouds: {} };
    if (error instanceof TributaryError) throw error;
    throw new TributaryError(
      "secret-malformed",
      `${file} holds no credentials that this build reads; remove it, and log in again`,
    );
  }
}

function keyOf(url: string): string {
  return URL.canParse(url) ? new URL(url).href.replace(/\/+$/, "") : url;
}

/** Certificates of authorities, in PEM. */
export async function readAnchors(file: string): Promise<readonly string[]> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw usageFailure(`cannot read the certificates in ${file}: ${reasonOf(error)}`);
  });
  const found = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g);
  if (found === null || found.length > cliLimits.anchorsMax)
    throw usageFailure(`${file} must hold 1 to ${cliLimits.anchorsMax} certificates in PEM`);
  return found;
}
