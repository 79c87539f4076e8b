import type { Layout } from "@tributary/proto/algebra/layout.js";
import type { Random } from "@tributary/proto/host/random.js";
import { DIGITS, IMAGE_PIXELS, type Samples } from "../pilot/mnist/data.js";

/**
 * Softmax regression on MNIST: 784 pixels from 0 to 1, 10 digits, 7,850 parameters, all 0 before
 * training. Small enough that an experiment trains it thousands of times in a minute.
 */
export const softmaxLayout = [
  { name: "weight", shape: [DIGITS, IMAGE_PIXELS] },
  { name: "bias", shape: [DIGITS] },
] as const satisfies Layout;

const BIAS = IMAGE_PIXELS * DIGITS;

/** Images by their inked pixels: four in five pixels of MNIST are background. */
export type InkedSamples = {
  readonly count: number;
  readonly labels: Uint8Array;
  /** Image i has the entries from `starts[i]` to `starts[i + 1]`. */
  readonly starts: Uint32Array;
  readonly pixels: Uint16Array;
  /** Grey levels in (0, 1]. */
  readonly levels: Float64Array;
};

export function inked({ count, pixels, labels }: Samples): InkedSamples {
  const entries = pixels.reduce((sum, level) => sum + (level > 0 ? 1 : 0), 0);
  const starts = new Uint32Array(count + 1);
  const places = new Uint16Array(entries);
  const levels = new Float64Array(entries);
  let at = 0;
  for (let i = 0; i < count; i++) {
    for (let pixel = 0; pixel < IMAGE_PIXELS; pixel++) {
      const level = pixels[i * IMAGE_PIXELS + pixel] as number;
      if (level === 0) continue;
      places[at] = pixel;
      levels[at++] = level / 255;
    }
    starts[i + 1] = at;
  }
  return { count, labels, starts, pixels: places, levels };
}

export type SoftmaxTraining = {
  readonly epochs: number;
  readonly batchSize: number;
  readonly learningRate: number;
};

/**
 * Mini-batch gradient descent on the mean cross-entropy, in float64 from the given float32 weights.
 *
 * @returns trained weights minus the given ones, in layout order
 */
export function trainSoftmax(
  from: Float32Array,
  samples: InkedSamples,
  { epochs, batchSize, learningRate }: SoftmaxTraining,
  random: Random,
): Float32Array {
  const weights = Float64Array.from(from);
  const order = Uint32Array.from({ length: samples.count }, (_, i) => i);
  const errors = Array.from({ length: batchSize }, () => new Float64Array(DIGITS));
  for (let epoch = 0; epoch < epochs; epoch++) {
    shuffle(order, random);
    for (let start = 0; start < order.length; start += batchSize) {
      const batch = order.subarray(start, start + batchSize);
      // The errors of a whole batch are those of the weights before it.
      for (const [at, image] of batch.entries()) {
        const error = errors[at] as Float64Array;
        predict(weights, samples, image, error);
        const label = samples.labels[image] as number;
        error[label] = (error[label] as number) - 1;
      }
      for (const [at, image] of batch.entries())
        descend(weights, samples, image, errors[at] as Float64Array, learningRate / batch.length);
    }
  }
  return Float32Array.from(weights, (weight, i) => weight - (from[i] as number));
}

/** Writes the softmax of the image's ten scores into `out`. */
function predict(
  weights: Float32Array | Float64Array,
  samples: InkedSamples,
  image: number,
  out: Float64Array,
): void {
  for (let digit = 0; digit < DIGITS; digit += AT_ONCE) score(weights, samples, image, digit, out);
  const most = Math.max(...out);
  let sum = 0;
  for (let digit = 0; digit < DIGITS; digit++) {
    const likelihood = Math.exp((out[digit] as number) - most);
    out[digit] = likelihood;
    sum += likelihood;
  }
  for (let digit = 0; digit < DIGITS; digit++) out[digit] = (out[digit] as number) / sum;
}

/** Digits whose rows one pass over an image's pixels serves: almost three times as fast as one. */
const AT_ONCE = 5;

/** Scores of the digits from `first` on, `AT_ONCE` of them. */
function score(
  weights: Float32Array | Float64Array,
  { starts, pixels, levels }: InkedSamples,
  image: number,
  first: number,
  out: Float64Array,
): void {
  const [a, b, c, d, e] = rowsFrom(first);
  let sumA = weights[BIAS + first] as number;
  let sumB = weights[BIAS + first + 1] as number;
  let sumC = weights[BIAS + first + 2] as number;
  let sumD = weights[BIAS + first + 3] as number;
  let sumE = weights[BIAS + first + 4] as number;
  const end = starts[image + 1] as number;
  for (let at = starts[image] as number; at < end; at++) {
    const pixel = pixels[at] as number;
    const level = levels[at] as number;
    sumA += level * (weights[a + pixel] as number);
    sumB += level * (weights[b + pixel] as number);
    sumC += level * (weights[c + pixel] as number);
    sumD += level * (weights[d + pixel] as number);
    sumE += level * (weights[e + pixel] as number);
  }
  out[first] = sumA;
  out[first + 1] = sumB;
  out[first + 2] = sumC;
  out[first + 3] = sumD;
  out[first + 4] = sumE;
}

/** weights -= rate * (errors, outer product with the image's pixels). */
function descend(
  weights: Float64Array,
  samples: InkedSamples,
  image: number,
  errors: Float64Array,
  rate: number,
): void {
  for (let digit = 0; digit < DIGITS; digit++) {
    const bias = BIAS + digit;
    weights[bias] = (weights[bias] as number) - rate * (errors[digit] as number);
  }
  for (let digit = 0; digit < DIGITS; digit += AT_ONCE)
    descendRows(weights, samples, image, digit, errors, rate);
}

function descendRows(
  weights: Float64Array,
  { starts, pixels, levels }: InkedSamples,
  image: number,
  first: number,
  errors: Float64Array,
  rate: number,
): void {
  const [a, b, c, d, e] = rowsFrom(first);
  const stepA = rate * (errors[first] as number);
  const stepB = rate * (errors[first + 1] as number);
  const stepC = rate * (errors[first + 2] as number);
  const stepD = rate * (errors[first + 3] as number);
  const stepE = rate * (errors[first + 4] as number);
  const end = starts[image + 1] as number;
  for (let at = starts[image] as number; at < end; at++) {
    const pixel = pixels[at] as number;
    const level = levels[at] as number;
    weights[a + pixel] = (weights[a + pixel] as number) - stepA * level;
    weights[b + pixel] = (weights[b + pixel] as number) - stepB * level;
    weights[c + pixel] = (weights[c + pixel] as number) - stepC * level;
    weights[d + pixel] = (weights[d + pixel] as number) - stepD * level;
    weights[e + pixel] = (weights[e + pixel] as number) - stepE * level;
  }
}

/** Where the weights of each of five digits begin. */
function rowsFrom(first: number): readonly [number, number, number, number, number] {
  const row = (digit: number) => (first + digit) * IMAGE_PIXELS;
  return [row(0), row(1), row(2), row(3), row(4)];
}

/** For each digit, the share of its samples that the model names right; NaN where it has none. */
export function accuracyByDigit(weights: Float32Array, samples: InkedSamples): number[] {
  const right = new Array<number>(DIGITS).fill(0);
  const all = new Array<number>(DIGITS).fill(0);
  const scores = new Float64Array(DIGITS);
  for (let image = 0; image < samples.count; image++) {
    predict(weights, samples, image, scores);
    const label = samples.labels[image] as number;
    all[label] = (all[label] as number) + 1;
    if (scores.indexOf(Math.max(...scores)) === label) right[label] = (right[label] as number) + 1;
  }
  return right.map((count, digit) => count / (all[digit] as number));
}

function shuffle(order: Uint32Array, random: Random): void {
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random.next() * (i + 1));
    const kept = order[i] as number;
    order[i] = order[j] as number;
    order[j] = kept;
  }
}
