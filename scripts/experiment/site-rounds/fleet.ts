import { type Random, seededRandom } from "@tributary/proto/host/random.js";
import { DIGITS, type Mnist, pick } from "../../pilot/mnist/data.js";
import { type InkedSamples, inked } from "../softmax.js";

export const SITES = 5;
export const DEVICES_PER_SITE = 4;
export const DIGITS_PER_DEVICE = 2;

export type Device = { readonly name: string; readonly samples: InkedSamples };
/** A gateway's devices. */
export type Site = { readonly name: string; readonly devices: readonly Device[] };

/**
 * Five sites of four devices, all of one size. Each device holds two digits, and no two devices of a
 * site the same: so each site lacks two digits, another two at each site, and each digit is held by
 * four devices of the fleet. The seed deals the digits and the samples.
 *
 * @param samples of one device; a multiple of 2
 */
export function dealFleet({ train }: Mnist, samples: number, seed: number): readonly Site[] {
  const random = seededRandom(`fleet ${seed}`);
  const circle = shuffled(
    Array.from({ length: DIGITS }, (_, digit) => digit),
    random,
  );
  const decks = circle.map((digit) => shuffled(indicesOf(train.labels, digit), random));
  const held = DIGITS_PER_DEVICE * DEVICES_PER_SITE;
  return Array.from({ length: SITES }, (_, s) => ({
    name: `site-${s + 1}`,
    devices: Array.from({ length: DEVICES_PER_SITE }, (_, d) => {
      const places = Array.from(
        { length: DIGITS_PER_DEVICE },
        (_, i) => ((DIGITS - held) * (s + 1) + DIGITS_PER_DEVICE * d + i) % DIGITS,
      );
      const indices = places.flatMap((place) => draw(decks[place], samples / DIGITS_PER_DEVICE));
      return { name: `site-${s + 1}-device-${d + 1}`, samples: inked(pick(train, indices)) };
    }),
  }));
}

function draw(deck: number[] | undefined, count: number): number[] {
  const drawn = deck?.splice(0, count) ?? [];
  if (drawn.length < count) throw new RangeError("a digit has too few samples");
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
