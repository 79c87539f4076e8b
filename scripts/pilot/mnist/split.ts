import { type Random, seededRandom } from "@tributary/proto/host/random.js";
import { DIGITS } from "./data.js";

/** A site holds at most so many digits: it lacks three or more. */
export const SITE_DIGITS_MAX = DIGITS - 3;
const DEVICE_DIGITS_MIN = 2;
const DEVICE_DIGITS_MAX = 3;
/** A larger fleet leaves a device of this data with too few samples to speak of training. */
export const SPLIT_DEVICES_MAX = 1_000;

export type SplitOptions = {
  readonly sites: number;
  readonly devices: number;
  /** A whole number. Equal options and labels give an equal split. */
  readonly seed: number;
};

export type DeviceShare = {
  /** 0 to devices - 1, over all sites. */
  readonly device: number;
  /** 0 to sites - 1. */
  readonly site: number;
  /** The two or three digits that the device holds, ascending. */
  readonly digits: readonly number[];
  /** The device's training samples, as indices into the labels. */
  readonly train: readonly number[];
};

export type SiteShare = {
  readonly site: number;
  readonly holds: readonly number[];
  /** The digits that no device of the site holds, ascending: at least three. */
  readonly lacks: readonly number[];
};

export type Split = {
  readonly sites: readonly SiteShare[];
  /** By site, then by device. */
  readonly devices: readonly DeviceShare[];
};

/**
 * A split that hurts: every site lacks at least three digits, every device holds samples of two or
 * three, every sample belongs to exactly one device. With three sites or more (of three devices or
 * more each) every digit lives at two sites at least, so that one site's absence takes no digit
 * away.
 *
 * Sites draw runs of one shuffled circle of digits, and devices runs of their site's: so holders
 * are spread as evenly as the numbers allow. Throws RangeError, naming the bound, when the numbers
 * allow no such split.
 */
export function split(labels: ArrayLike<number>, options: SplitOptions): Split {
  checkNumbers(options);
  const random = seededRandom(options.seed);
  const held = dealDigits(options, random);
  const train = dealSamples(labels, held, random);
  return {
    sites: Array.from({ length: options.sites }, (_, site) => siteShare(site, held)),
    devices: held.map(({ site, digits }, device) => ({
      device,
      site,
      digits,
      train: train[device] as number[],
    })),
  };
}

function checkNumbers({ sites, devices, seed }: SplitOptions): void {
  if (!Number.isSafeInteger(seed)) throw new RangeError(`the seed ${seed} is not a whole number`);
  if (!(Number.isSafeInteger(sites) && sites >= 2))
    throw new RangeError(
      `${sites} sites: at least 2 are needed, for each lacks three digits and all ten are held`,
    );
  const devicesMin = Math.max(sites, Math.ceil(DIGITS / DEVICE_DIGITS_MAX));
  if (!(Number.isSafeInteger(devices) && devices >= devicesMin))
    throw new RangeError(
      `${devices} devices: ${sites} sites need at least ${devicesMin}, one for each site and ` +
        "enough to hold ten digits at three each",
    );
  if (devices > SPLIT_DEVICES_MAX)
    throw new RangeError(`${devices} devices: at most ${SPLIT_DEVICES_MAX} can share the data`);
}

type Held = { readonly site: number; readonly digits: readonly number[] };

function dealDigits({ sites, devices }: SplitOptions, random: Random): Held[] {
  const circle = shuffled(range(DIGITS), random);
  const held: Held[] = [];
  let at = 0;
  for (let site = 0; site < sites; site++) {
    const count = Math.floor(devices / sites) + (site < devices % sites ? 1 : 0);
    const size = Math.min(SITE_DIGITS_MAX, DEVICE_DIGITS_MAX * count);
    const own = shuffled(run(circle, at, size), random);
    at += size;
    for (const digits of dealSite(own, count))
      held.push({ site, digits: [...digits].sort((a, b) => a - b) });
  }
  return held;
}

/** `count` runs of two or three digits that cover `own`; about half hold three. */
function dealSite(own: readonly number[], count: number): (readonly number[])[] {
  const threes = Math.max(Math.ceil(count / 2), own.length - DEVICE_DIGITS_MIN * count);
  let at = 0;
  return range(count).map((device) => {
    const size = device < threes ? DEVICE_DIGITS_MAX : DEVICE_DIGITS_MIN;
    const digits = run(own, at, size);
    at += size;
    return digits;
  });
}

/** Each digit's samples, shuffled, in turn to the devices that hold it. */
function dealSamples(
  labels: ArrayLike<number>,
  held: readonly Held[],
  random: Random,
): readonly number[][] {
  const samples: number[][] = range(DIGITS).map(() => []);
  for (let i = 0; i < labels.length; i++) {
    const ofDigit = samples[labels[i] as number];
    if (ofDigit === undefined) throw new RangeError(`label ${labels[i]} is not a digit`);
    ofDigit.push(i);
  }
  const train: number[][] = held.map(() => []);
  for (const [digit, indices] of samples.entries()) {
    const holders = range(held.length).filter((d) => held[d]?.digits.includes(digit));
    if (indices.length < holders.length)
      throw new RangeError(
        `digit ${digit} has ${indices.length} samples for ${holders.length} devices`,
      );
    shuffled(indices, random).forEach((index, k) => {
      train[holders[k % holders.length] as number]?.push(index);
    });
  }
  return train;
}

function siteShare(site: number, held: readonly Held[]): SiteShare {
  const has = new Set(held.filter((h) => h.site === site).flatMap((h) => h.digits));
  return {
    site,
    holds: range(DIGITS).filter((digit) => has.has(digit)),
    lacks: range(DIGITS).filter((digit) => !has.has(digit)),
  };
}

/**
 * The test samples of each device, for federated evaluation: an even share of a shuffle of all of
 * them, whatever digits the device trains on. The shares cover the test set exactly once, so the
 * sample-weighted mean of the devices' accuracies is the accuracy on the whole test set; and the
 * shares of the sites that are present stay a fair sample of it when another is absent.
 *
 * @returns for each device, indices into the test samples. Throws RangeError when there are fewer
 *   samples than devices.
 */
export function splitTest(
  count: number,
  { devices, seed }: { readonly devices: number; readonly seed: number },
): readonly (readonly number[])[] {
  if (count < devices) throw new RangeError(`${count} test samples for ${devices} devices`);
  const shares: number[][] = range(devices).map(() => []);
  shuffled(range(count), seededRandom(seed)).forEach((index, k) => {
    shares[k % devices]?.push(index);
  });
  return shares;
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

/** `size` neighbours on the circle from `start` on; distinct while `size` is at most its length. */
function run(circle: readonly number[], start: number, size: number): number[] {
  return range(size).map((i) => circle[(start + i) % circle.length] as number);
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
