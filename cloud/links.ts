import type { AttachResponse } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import type { LiveRound } from "./live-round.js";
import type { PlanBase } from "./round-plan.js";

/**
 * Undefined when the round does not expect anything of the gateway.
 *
 * @param nowMs by the monotonic clock
 */
export function roundOpened(
  live: LiveRound,
  gateway: string,
  nowMs: number,
): AttachResponse | undefined {
  const member = live.state.members[gateway];
  if (member === undefined || member.standing !== "waiting") return undefined;
  const remainingMs = Math.max(0, Math.round(live.times.siteDeadlineAtMs - nowMs));
  const { plan } = live.row;
  return {
    message: {
      $case: "roundOpened",
      value: {
        plan: Buffer.from(plan.buffer, plan.byteOffset, plan.byteLength),
        // The field is a uint32; a longer deadline is told again when the gateway attaches again.
        remainingMs: Math.min(remainingMs, 2 ** 32 - 1),
        roster: [...member.roster],
      },
    },
  };
}

export function roundClosed(round: string, outcome: string): AttachResponse {
  return { message: { $case: "roundClosed", value: { round, outcome } } };
}

export function sessionOver(session: string): AttachResponse {
  return { message: { $case: "sessionOver", value: { session } } };
}

export function modelPublished(session: string, { manifest, layout }: PlanBase): AttachResponse {
  return {
    message: {
      $case: "modelPublished",
      value: {
        session,
        manifest: Buffer.from(encodeCbor(manifest)),
        layout: Buffer.from(encodeCbor(layout)),
      },
    },
  };
}
