/** What a figure must keep. A missed bar is a finding, not a failure to measure. */
export type Bar = { readonly atLeast: number } | { readonly atMost: number };

/** One figure of a bench, printed as one JSON line and one row of the table. */
export type BenchLine = {
  readonly bench: string;
  readonly case: string;
  readonly value: number;
  /** `times` for ratios. */
  readonly unit: string;
  readonly bar?: Bar;
  readonly note?: string;
};

export function holds({ value }: BenchLine, bar: Bar): boolean {
  return "atLeast" in bar ? value >= bar.atLeast : value <= bar.atMost;
}

/** To so many significant digits, so that a line shows no digits that mean nothing. */
export function figure(value: number, digits = 3): number {
  return Number(value.toPrecision(digits));
}

export function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error("a median of nothing");
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] as number;
}
