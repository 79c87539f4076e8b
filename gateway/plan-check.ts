import { checkHeadroom, encodingFor } from "@tributary/proto/algebra/grid.js";
import { parameterCount } from "@tributary/proto/algebra/layout.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { isId } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { type Plan, planSchema } from "@tributary/proto/wire/plan.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { updateBytes } from "./admit.js";

/** Reads a plan from upstream and judges whether this gateway can run it. */
export function readPlan(
  bytes: Uint8Array,
  roster: readonly string[],
): Verdict<{ readonly plan: Plan }> {
  const cbor = decodeCbor(bytes, { depth: wire.headerDepth, items: wire.headerItems });
  if (!cbor.ok) return refuse("plan-invalid", cbor.message);
  const parsed = planSchema.safeParse(cbor.value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    return refuse("plan-invalid", `${issue?.path.join(".")}: ${issue?.message}`);
  }
  const plan = parsed.data;
  const headroom = checkHeadroom(plan.grid, plan.nMax, BigInt(plan.totalMax));
  if (!headroom.ok) return headroom;
  if (plan.encoding !== encodingFor(plan.grid)) {
    return refuse("plan-invalid", `encoding ${plan.encoding} does not fit the grid`);
  }
  if (updateBytes(plan) > wire.modelBytes || parameterCount(plan.layout) * 8 > wire.partialBytes) {
    return refuse("too-large", "the layout makes updates past the protocol's bound");
  }
  if (roster.length > wire.roster) {
    return refuse("too-large", `a roster of ${roster.length} devices; at most ${wire.roster}`);
  }
  if (!roster.every(isId) || new Set(roster).size !== roster.length) {
    return refuse("plan-invalid", "the roster holds a name that is no device id, or one twice");
  }
  return { ok: true, plan };
}
