import type { KeyObject } from "node:crypto";
import type { Accumulator } from "@tributary/proto/algebra/accumulator.js";
import { clipUpdate } from "@tributary/proto/algebra/clip.js";
import { bytesPerValue } from "@tributary/proto/algebra/grid.js";
import { parameterCount } from "@tributary/proto/algebra/layout.js";
import type { Contributor, Origin } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { verifyUpdate } from "@tributary/proto/identity/statement.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import { cloudRound, splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { updatePreimage } from "@tributary/proto/wire/update.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";

/** An update as a gateway says that a device gave it. */
export type AnsweredUpdate = { readonly begin: Begin; readonly payload: Uint8Array };

/** Bytes of an update's payload under a plan. */
export function updateBytes({ task, layout, encoding }: Plan): number {
  return task === "evaluate" ? 0 : parameterCount(layout) * bytesPerValue(encoding);
}

/**
 * Whether an update's header is what its contributor's place in a Partial takes: the device's own word for
 * it, by a key that the device is enrolled with, with the weight that it has in the sum.
 *
 * @param keys that the device was enrolled with
 */
export function checkHeader(
  begin: Begin,
  { round, device, samples }: Contributor,
  plan: Plan,
  origin: Origin,
  keys: readonly KeyObject[],
): Verdict<object> {
  const { signature, digest } = begin;
  const isOfRound = begin.round === round || isSiteRoundOf(begin.round, round);
  if (!isOfRound) return refuse("unknown-round", `${device}: an update of ${begin.round}`);
  if (keys.length === 0) return refuse("identity-unknown", `${device} is not enrolled`);
  if (signature === undefined) return refuse("update-unsigned", `${device}: not signed`);
  const statement = { round: begin.round, device, digest };
  if (!keys.some((key) => verifyUpdate(statement, signature, key)))
    return refuse("update-signature", `${device}: signed with no key that it is enrolled with`);
  if (begin.samples !== samples)
    return refuse("bad-sample-count", `${device}: ${begin.samples} samples, in the sum ${samples}`);
  // A site round goes on from a model of the site's own, which only the gateway and its devices know.
  const onSite = splitNumberedId(begin.base)?.site !== undefined && begin.round !== round;
  if (!onSite && (begin.base !== origin.base || begin.baseDigest !== origin.baseDigest))
    return refuse("wrong-base", `${device}: trained from ${begin.base}`);
  if (begin.encoding !== plan.encoding)
    return refuse("wrong-encoding", `${device}: encoded as ${begin.encoding}`);
  if (begin.bytes !== updateBytes(plan))
    return refuse("wrong-shape", `${device}: an update of ${begin.bytes} bytes`);
  return { ok: true };
}

/** Whether a round is a site round of another, or one of the stretch that begins with it. */
function isSiteRoundOf(id: string, round: string): boolean {
  const site = splitNumberedId(id)?.site;
  const first = splitNumberedId(round)?.site ?? 1;
  return site !== undefined && site >= first && cloudRound(id) === cloudRound(round);
}

/** Whether the bytes are those of the header, and hold to the plan's grid; and adds them to a sum. */
export function foldUpdate(
  accumulator: Accumulator,
  { begin, payload }: AnsweredUpdate,
  device: string,
  plan: Plan,
): Verdict<object> {
  if (sha256([updatePreimage(device, begin), payload]) !== begin.digest)
    return refuse("digest-mismatch", `${device}: the bytes do not have the digest that it signed`);
  const { encoding, samples, metrics, saturated } = begin;
  const checked = accumulator.check(payload, encoding, 0);
  if (!checked.ok) return refuse(checked.code, `${device}: ${checked.message}`);
  const { clipNorm, layout, grid } = plan;
  const values = payload.slice();
  const clipped =
    clipNorm !== undefined &&
    values.length > 0 &&
    clipUpdate(values, encoding, layout, grid, clipNorm).clipped;
  const added = accumulator.add(values, encoding, { device, samples, clipped }, metrics, saturated);
  return added.ok ? added : refuse(added.code, `${device}: ${added.message}`);
}
