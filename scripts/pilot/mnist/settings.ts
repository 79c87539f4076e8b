import type { SessionParamsInput } from "@tributary/cloud/params.js";

/** @placeholder */
export const mnistSettings = {
  rounds: 30,
  optimizer: { kind: "fedyogi", eta: 0.02, beta1: 0.5, beta2: 0.99, tau: 1e-3 },
  training: { epochs: 1, learningRate: 0.2, batchSize: 64 },
  // R 2^f = 2^24: values travel as float32. R is nine times the largest change ever seen.
  grid: { fractionBits: 22, range: 4 },
  evaluateEvery: 5,
  gate: { metric: "accuracy", direction: "higher", tolerance: 0.1 },
} as const satisfies Partial<SessionParamsInput>;
