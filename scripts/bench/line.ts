/** One figure of a bench, printed as one JSON line and one row of the table. */
export type BenchLine = {
  bench: string;
  case: string;
  value: number;
  unit: string;
  note?: string;
};
