import { readFileSync } from "node:fs";
import { join } from "node:path";

/** What a command sees of the first owner's token, and of the authority, of a cloud's data directory. */
export function ownerOf(dataDir: string): Record<string, string> {
  const place = join(dataDir, "authority");
  return {
    TRIBUTARY_TOKEN: readFileSync(join(place, "owner.token"), "utf8").trimEnd(),
    TRIBUTARY_ANCHORS: join(place, "anchors.pem"),
    // Nothing of whoever runs the tests.
    XDG_CONFIG_HOME: place,
  };
}

/** Where a cloud's API is: over TLS, or in the clear. */
export async function urlOf(httpPort: number): Promise<string> {
  const plain = `http://127.0.0.1:${httpPort}`;
  const answers = await fetch(`${plain}/api/v1/health`).then(
    ({ ok }) => ok,
    () => false,
  );
  return answers ? plain : `https://127.0.0.1:${httpPort}`;
}
