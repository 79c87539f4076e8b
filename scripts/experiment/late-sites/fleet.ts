import { type Random, seededRandom } from "@tributary/proto/host/random.js";
import { DIGITS, type Mnist, pick } from "../../pilot/mnist/data.js";
import { inked } from "../softmax.js";
import type { Site } from "./site.js";

/** Beside the late one. */
const OTHER_SITES = 4;
export const SITES = OTHER_SITES + 1;
export const DEVICES_PER_SITE = 4;
/** Of the sites that are always in touch. */
const DIGITS_PER_SITE = 4;
const OWN_DIGITS = 2;

export type Fleet = {
  /** The site that is seldom in touch, and alone owns two digits. */
  readonly late: Site;
  readonly others: readonly Site[];
  /** The late site's digits, ascending. */
  readonly ownDigits: readonly number[];
};

/**
 * Five sites of four devices, all of one size. The seed deals the digits: two to the late site
 * alone, and the other eight to the other four sites so that each site lacks six digits and each
 * digit is at two sites. All ten digits have the same number of samples in the fleet.
 *
 * @param samples of one device; a multiple of 4
 */
export function dealFleet({ train }: Mnist, samples: number, seed: number): Fleet {
  const random = seededRandom(`fleet ${seed}`);
  const [ownDigits, circle] = dealDigits(random);
  const decks = Array.from({ length: DIGITS }, (_, digit) =>
    shuffled(indicesOf(train.labels, digit), random),
  );
  const site = (number: number, held: readonly number[]): Site => ({
    name: `site-${number}`,
    devices: Array.from({ length: DEVICES_PER_SITE }, () =>
      inked(
        pick(
          train,
          held.flatMap((digit) => draw(decks[digit], samples / held.length, digit)),
        ),
      ),
    ),
  });
  return {
    ownDigits,
    late: site(SITES, ownDigits),
    others: Array.from({ length: OTHER_SITES }, (_, at) => site(at + 1, heldBy(at, circle))),
  };
}

/** The late site's digits, and the circle of all others. */
function dealDigits(random: Random): readonly [number[], number[]] {
  const digits = shuffled(
    Array.from({ length: DIGITS }, (_, digit) => digit),
    random,
  );
  const own = digits.splice(0, OWN_DIGITS).sort((a, b) => a - b);
  return [own, digits];
}

/** Four neighbours on the circle; each site begins two further on. */
function heldBy(site: number, circle: readonly number[]): number[] {
  const step = circle.length / OTHER_SITES;
  return Array.from(
    { length: DIGITS_PER_SITE },
    (_, i) => circle[(step * site + i) % circle.length] as number,
  );
}

function draw(deck: number[] | undefined, count: number, digit: number): number[] {
  const drawn = deck?.splice(0, count) ?? [];
  if (drawn.length < count) throw new RangeError(`digit ${digit} has too few samples`);
  return drawn;
}

function indicesOf(labels: Uint8Array, digit: number): number[] {
  const indices: number[] = [];
  for (const [i, label] of labels.entries()) if (label === digit) indices.push(i);
  return indices;
}

/** Fisher and Yates. */
function shuffled(values: readonly number[], random: Random): number[] {
  const deck = [...values];
  for (let i = deck.length - 1; i > 0; i--) {
    const j = Math.floor(random.next() * (i + 1));
    [deck[i], deck[j]] = [deck[j] as number, deck[i] as number];
  }
  return deck;
}
