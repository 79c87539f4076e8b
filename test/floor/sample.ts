/** The small model that most tests train: two tensors, each on a grid of its own. */
export const layout = [
  { name: "w", shape: [5, 3] },
  { name: "b", shape: [3] },
];
export const initialValues = Float32Array.from({ length: 18 }, (_, i) => Math.sin(i + 1));

/** w on 2^-20, b on 2^-12. */
export const grid = { fractionBits: { default: 20, tensors: { b: 12 } }, range: 1 };
export const bitsOf = (coordinate: number): number => (coordinate < 15 ? 20 : 12);

/** Parameters that tests of several tiers share; deadlines far beyond what a busy machine needs. */
export const sessionParams = {
  initialModel: "start.0",
  grid,
  evaluateEvery: 0,
  deadlineMs: 300_000,
  nMax: 1_000,
  totalMax: 100_000,
};
