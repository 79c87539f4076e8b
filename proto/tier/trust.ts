import type { Trust, TrustHeld } from "../gen/tributary/v1/reducer.js";
import type { IsVoid } from "../identity/denylist.js";
import { isId } from "../wire/ids.js";
import { limits } from "../wire/limits.js";
import { type Refusal, refuse } from "../wire/verdict.js";

/** Who keeps the fleet's denylist on the side that serves gateways. */
export type TrustKeeper = {
  /** What a gateway, and those below it, hold; the answer, if there is one now, goes back to it. */
  held(gateway: string, held: TrustHeld): Trust | undefined;
  /** A newer list than this side has, as the gateway says. */
  carried(gateway: string, trust: Trust): void;
};

export function checkTrustHeld({ denylists }: TrustHeld): Refusal | undefined {
  const most = limits.gatewaysBelow + 1; // the sender itself
  return denylists.length <= most && denylists.every(({ gateway }) => isId(gateway))
    ? undefined
    : refuse("malformed", `denylists must be at most ${most}, each of a gateway`);
}

/** Whether a list voids what a gateway showed when it connected. */
export function isShut(
  isVoid: IsVoid,
  { gateway, shownFrom }: { readonly gateway: string; readonly shownFrom: number | undefined },
): boolean {
  return shownFrom !== undefined && isVoid("gateway", gateway, shownFrom);
}
