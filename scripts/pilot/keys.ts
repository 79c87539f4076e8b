import { join } from "node:path";
import { readSecretFile, writeSecretFile } from "@tributary/proto/identity/secret-file.js";
import { type Api, createApi } from "../cli/api.js";
import { readAnchors } from "../cli/credentials.js";
import type { Credentials } from "../cli/exchange.js";
import type { Processes } from "./processes.js";

/** What a newcomer may come as. */
export type Scope = {
  readonly kind: "gateway" | "device";
  /** One * stands for any characters. */
  readonly name: string;
  readonly site: string;
  readonly uses: number;
};

/** The keys of the pilot's fleet, as an operator has them. */
export type Keys = {
  /** The cloud's API, as the fleet's owner. */
  api(url: string): Api;
  /** Writes a claim to a file, for newcomers to enrol with. */
  claim(api: Api, scope: Scope, file: string): Promise<void>;
};

/** Makes an authority in the cloud's data directory, before the cloud starts on it. */
export async function makeKeys(cloudDir: string, processes: Processes): Promise<Keys> {
  await processes.run("cloud-init", ["cloud", "init", "--data", cloudDir, "--fleet", "pilot"]);
  const credentials: Credentials = {
    token: (await readSecretFile(join(cloudDir, "authority", "owner.token"))).trim(),
    anchors: await readAnchors(join(cloudDir, "authority", "anchors.pem")),
  };
  return {
    api: (url) => createApi({ url, credentials: async () => credentials }),
    async claim(api, scope, file) {
      const { text } = await api.createClaim(scope);
      await writeSecretFile(file, `${text}\n`, { replace: true });
    },
  };
}
