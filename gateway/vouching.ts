import type { KeyObject } from "node:crypto";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { admitSignature } from "./admit.js";
import { limits } from "./limits.js";

/** Has devices that are enrolled with a key vouch for their updates. */
export type Vouching = {
  /** `signed` when the device has a key, and the update is signed with it. */
  admit(device: string, begin: Begin): Verdict<{ readonly signed: boolean }>;
  /** The round takes no more. */
  endRound(round: string): void;
};

/** How many signatures were checked, and what the newest good one is of. */
type Checks = { readonly count: number; readonly good: string | undefined };

/**
 * A check costs more than to send what fails it, so nobody gets many of them. What was found good is not
 * checked again: on a bad link the same update is begun time and again.
 */
export function createVouching(keyOf: (device: string) => KeyObject | undefined): Vouching {
  /** By round and device. */
  const checks = new Map<string, Map<string, Checks>>();

  function check(device: string, begin: Begin, key: KeyObject, text: string): Verdict<object> {
    const { round } = begin;
    const ofRound = checks.get(round) ?? new Map<string, Checks>();
    const { count, good } = ofRound.get(device) ?? { count: 0, good: undefined };
    if (text === good) return { ok: true };
    if (count >= limits.signatureChecks)
      return refuse("busy", `${count} updates of it were checked for round ${round}`);
    const verdict = admitSignature(begin, device, key);
    checks.set(round, ofRound.set(device, { count: count + 1, good: verdict.ok ? text : good }));
    return verdict;
  }

  return {
    admit(device, begin) {
      const key = keyOf(device);
      if (key === undefined) return { ok: true, signed: false };
      const { digest, signature } = begin;
      const verdict =
        signature === undefined
          ? admitSignature(begin, device, key)
          : check(device, begin, key, `${digest} ${Buffer.from(signature).toString("hex")}`);
      return verdict.ok ? { ok: true, signed: true } : verdict;
    },
    endRound(round) {
      checks.delete(round);
    },
  };
}
