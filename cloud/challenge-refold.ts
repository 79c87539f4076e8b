import { type Accumulator, createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import { encodePartial } from "@tributary/proto/algebra/frame.js";
import { merge, type Origin, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";
import { type AnsweredUpdate, foldUpdate } from "./challenge-check.js";

/** What is known of the Partial whose sum is made again. */
export type RefoldSubject = Origin & { readonly site: string | null };

/** Makes a Partial's sum again from the updates behind it, in whatever order they come. */
export type Refold = {
  /**
   * Checks an update and adds it.
   * @param round for which it counts in the Partial
   */
  add(round: string, device: string, update: AnsweredUpdate, plan: Plan): Verdict<object>;
  /**
   * Digest of the Partial that they make; undefined where it is composed of several site rounds, so that
   * it is no plain sum of updates, or where they do not add up.
   */
  digest(): string | undefined;
  release(): void;
};

/** A round's updates, and the round as its devices knew it. */
type Part = { readonly accumulator: Accumulator; readonly plan: Plan; readonly as: Set<string> };

export function createRefold(kernel: Kernel, { site, base, baseDigest }: RefoldSubject): Refold {
  const parts = new Map<string, Part>();

  function partOf(round: string, plan: Plan): Part {
    const found = parts.get(round);
    if (found !== undefined) return found;
    const evaluation = plan.task === "evaluate";
    const subject = { round, site, base, baseDigest, evaluation };
    const totalMax = BigInt(plan.totalMax);
    const accumulator = createAccumulator(kernel, plan.layout, plan.grid, totalMax, subject);
    const part = { accumulator, plan, as: new Set<string>() };
    parts.set(round, part);
    return part;
  }

  return {
    add(round, device, update, plan) {
      const part = partOf(round, plan);
      const added = foldUpdate(part.accumulator, update, device, plan);
      if (added.ok) part.as.add(update.begin.round);
      return added;
    },
    digest() {
      let sum: Sum | undefined;
      for (const { accumulator, plan, as } of parts.values()) {
        if (as.size !== 1) return undefined;
        const partial = accumulator.snapshot();
        const merged = sum === undefined ? undefined : merge(sum, partial, BigInt(plan.totalMax));
        if (merged?.ok === false) return undefined;
        sum = merged?.partial ?? partial;
      }
      return sum && sha256(encodePartial({ ...sum, site }));
    },
    release() {
      for (const { accumulator } of parts.values()) accumulator.release();
      parts.clear();
    },
  };
}
