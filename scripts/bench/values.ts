/** Fraction bits of every bench's grid. */
export const FRACTION_BITS = 20;
/** No value of `gridValues` is larger in magnitude. */
export const RANGE = 1;

/** Values on the grid that fill the whole range, the same at every run. */
export function gridValues(parameters: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(parameters);
  let state = 1;
  for (let i = 0; i < parameters; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = ((state >>> 11) - 2 ** FRACTION_BITS) / 2 ** FRACTION_BITS;
  }
  return values;
}
