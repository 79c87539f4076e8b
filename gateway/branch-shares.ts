import type { AttachResponse } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import type { Roll } from "./roll.js";
import type { BranchRecord } from "./store.js";

/** Who is asked through which gateway below, and who by this gateway itself. */
type Shares = Pick<BranchRecord, "members" | "own">;

/** By where each device was last reported. Those of nobody below are asked here. */
export function splitRoster(
  roll: Pick<Roll, "gateway" | "placeOf">,
  roster: readonly string[],
): Shares {
  const places = new Map<string, string[]>();
  const own: string[] = [];
  for (const device of roster) {
    const gateway = roll.placeOf(device);
    if (gateway === undefined || roll.gateway(gateway) === undefined) own.push(device);
    else places.set(gateway, [...(places.get(gateway) ?? []), device]);
  }
  const members = [...places].map(([gateway, devices]) => {
    const incarnation = roll.gateway(gateway)?.incarnation ?? "";
    return { gateway, incarnation, roster: devices };
  });
  return { members, own };
}

/**
 * The time that those below have, of the time left here. A Partial needs the plan's travel time,
 * deadlineMs - siteDeadlineMs, for each hop; but a hop takes no more than a quarter of what is left,
 * so that k tiers leave at least (3/4)^k of it to the devices.
 */
export function timeBelow(remainingMs: number, plan: Plan): number {
  const travelMs = Math.min(plan.deadlineMs - plan.siteDeadlineMs, Math.floor(remainingMs / 4));
  return Math.max(0, remainingMs - travelMs);
}

/** The share of one gateway below, as it is asked. The plan is the bytes that came. */
export function openingBelow(
  planBytes: Uint8Array,
  plan: Plan,
  roster: readonly string[],
  leftMs: number,
): AttachResponse {
  const value = {
    plan: Buffer.from(planBytes),
    remainingMs: Math.round(Math.min(timeBelow(Math.max(0, leftMs), plan), 2 ** 32 - 1)),
    roster: [...roster],
  };
  return { message: { $case: "roundOpened", value } };
}
