import { type Bucket, type BucketBounds, createBucket } from "@tributary/proto/host/bucket.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { networkOf } from "@tributary/proto/host/network.js";
import { readClaim } from "@tributary/proto/identity/claim.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";

export type AttemptBounds = {
  /** Failed attempts from one address. */
  readonly address: BucketBounds;
  /** Failed attempts with one claim, from wherever. */
  readonly claim: BucketBounds;
  /** Addresses, and claims, that are remembered; the one that failed longest ago is forgotten. */
  readonly known: number;
};

export type Attempts = {
  /**
   * Lets somebody try to enrol or to renew, unless too much of theirs has failed: then nothing of it is
   * read, and no signature checked. What succeeds, and what waits to be accepted, costs nothing.
   * Refusal: `too-many-attempts`.
   *
   * @param from an address; undefined where a gateway passes it on, which counts those of its own
   * @param claim its text; undefined in a renewal
   */
  try<T>(
    from: string | undefined,
    claim: string | undefined,
    attempt: () => Promise<Verdict<T>>,
  ): Promise<Verdict<T>>;
};

export function createAttempts(bounds: AttemptBounds, clock: Pick<Clock, "monotonicMs">): Attempts {
  const addresses = createBuckets(bounds.address, bounds.known, clock);
  const claims = createBuckets(bounds.claim, bounds.known, clock);
  return {
    async try(from, claim, attempt) {
      const spent: Bucket[] = [];
      if (from !== undefined) spent.push(addresses.of(networkOf(from)));
      // What is no claim is a matter of the address alone: all who send such would share one.
      const id = claim === undefined ? undefined : readClaim(claim)?.id;
      if (id !== undefined) spent.push(claims.of(id));
      const waitMs = Math.max(0, ...spent.map((bucket) => bucket.waitMs(1)));
      if (waitMs > 0)
        return refuse(
          "too-many-attempts",
          `too much of it has failed; try again in ${Math.ceil(waitMs / 1_000)} s`,
        );
      // Before it is done: attempts at the same time count.
      for (const bucket of spent) bucket.spend(1);
      const verdict = await attempt();
      if (verdict.ok || verdict.code === "claim-pending")
        for (const bucket of spent) bucket.spend(-1);
      return verdict;
    },
  };
}

function createBuckets(bounds: BucketBounds, known: number, clock: Pick<Clock, "monotonicMs">) {
  const buckets = new Map<string, Bucket>();
  return {
    of(name: string): Bucket {
      const bucket = buckets.get(name) ?? createBucket(bounds, clock);
      buckets.delete(name);
      buckets.set(name, bucket);
      const [longest] = buckets.keys();
      if (buckets.size > known && longest !== undefined) buckets.delete(longest);
      return bucket;
    },
  };
}
