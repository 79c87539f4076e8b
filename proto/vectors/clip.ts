import { writeFileSync } from "node:fs";
import { clipUpdate } from "../algebra/clip.js";
import type { Encoding } from "../algebra/grid.js";

/** Writes proto/vectors/clip.json: `node proto/dist/vectors/clip.js`. The same bytes each time. */

type Case = {
  name: string;
  encoding: Encoding;
  fractionBits: number[];
  range: number;
  clipNorm: number;
  /** Whole numbers of grid steps, of each tensor. */
  steps: number[][];
};

const arrays = { f32: Float32Array, i32: Int32Array, i16: Int16Array };

function vector({ name, encoding, fractionBits, range, clipNorm, steps }: Case) {
  const worth = (t: number) => (encoding === "f32" ? 2 ** -(fractionBits[t] as number) : 1);
  const values = arrays[encoding].from(steps.flatMap((list, t) => list.map((q) => q * worth(t))));
  const before = new Uint8Array(values.buffer).slice();
  const update = before.slice();
  const layout = steps.map((list, t) => ({ name: `t${t}`, shape: [list.length] }));
  const result = clipUpdate(update, encoding, layout, { fractionBits, range }, clipNorm);
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
  const given = { name, encoding, layout, fractionBits, range, clipNorm };
  return { ...given, update: hex(before), ...result, becomes: hex(update) };
}

const cases: Case[] = [
  {
    name: "3, 4 on whole steps, to half its norm",
    encoding: "i16",
    fractionBits: [0],
    range: 100,
    clipNorm: 2.5,
    steps: [[3, -4]],
  },
  {
    name: "a norm that is the bound",
    encoding: "i16",
    fractionBits: [0],
    range: 100,
    clipNorm: 5,
    steps: [[3, -4]],
  },
  {
    name: "one value, towards zero",
    encoding: "f32",
    fractionBits: [20],
    range: 8,
    clipNorm: 0.1,
    steps: [[1_048_576]],
  },
  {
    name: "tensors on grids of their own count by their values",
    encoding: "f32",
    fractionBits: [20, 10],
    range: 8,
    clipNorm: 1.5,
    steps: [
      [8_388_608, -1, 0, 524_287],
      [-2_048, 1, 3],
    ],
  },
  {
    name: "32-bit steps",
    encoding: "i32",
    fractionBits: [28, 0],
    range: 7.5,
    clipNorm: 3.25,
    steps: [
      [2_013_265_920, -2_013_265_919, 5],
      [7, -7],
    ],
  },
  {
    name: "a bound below a step leaves nothing",
    encoding: "i16",
    fractionBits: [4],
    range: 100,
    clipNorm: 0.05,
    steps: [[9, -1, 0]],
  },
];

writeFileSync(
  new URL("../../vectors/clip.json", import.meta.url),
  `${JSON.stringify(cases.map(vector), null, 1)}\n`,
);
