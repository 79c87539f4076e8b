import type { Clock } from "@tributary/proto/host/clock.js";
import { type Asked, signWarrant } from "@tributary/proto/identity/warrant.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type WatchedKeys, watchKeys } from "./authority/authority.js";
import { authorityFile, listKey } from "./authority/keys.js";

/** Gives the fleet's word for challenges, with the keys that are there at the time. */
export function warrants(
  dataDir: string,
  clock: Pick<Clock, "nowMs">,
): (asked: Asked) => Promise<string> {
  let watched: WatchedKeys | undefined;
  return async (asked) => {
    watched ??= await watchKeys(authorityFile(dataDir));
    if (watched === undefined)
      throw new TributaryError("secret-missing", "without an authority nobody is challenged");
    const keys = await watched.current();
    return signWarrant(watched.fleet, asked, listKey(keys, clock.nowMs()));
  };
}
