import { type Encoding, type Grid, stretches } from "./grid.js";
import type { Layout } from "./layout.js";

/** What clipping came to: the L2 norm that the update had, and whether it was past the bound. */
export type Clipping = { readonly norm: number; readonly clipped: boolean };

/**
 * Bounds the L2 norm of an update in place. norm = sqrt(sum of (q / 2^f)^2), a double, added up in the
 * order of the coordinates. Past `clipNorm` each q becomes trunc(q (clipNorm / norm)): towards zero, so
 * that the update stays in its range, on the grid and, to the rounding of a double, within the bound.
 * Every operation is one of IEEE double, so that whoever has the same update gets the same bits.
 *
 * @param values the whole update in the grid's encoding; they are finite and on the grid
 */
export function clipUpdate(
  values: Uint8Array,
  encoding: Encoding,
  layout: Layout,
  grid: Grid,
  clipNorm: number,
): Clipping {
  const view = viewOf(values, encoding);
  const runs = stretches(layout, grid);
  // What one value of the view is worth: f32 carries q / 2^f, the others q.
  const unitOf = (scale: number) => (encoding === "f32" ? 1 : 1 / scale);
  let sum = 0;
  for (const { start, end, scale } of runs) {
    const unit = unitOf(scale);
    for (let i = start; i < end; i++) {
      const value = (view[i] as number) * unit;
      sum += value * value;
    }
  }
  const norm = Math.sqrt(sum);
  if (norm <= clipNorm) return { norm, clipped: false };
  const factor = clipNorm / norm;
  for (const { start, end, scale } of runs) {
    const steps = encoding === "f32" ? scale : 1;
    for (let i = start; i < end; i++) {
      // + 0: a negative zero travels as zero, so that equal sums have equal bytes.
      view[i] = Math.trunc((view[i] as number) * steps * factor) / steps + 0;
    }
  }
  if (view.buffer !== values.buffer) values.set(new Uint8Array(view.buffer));
  return { norm, clipped: true };
}

/** The values as numbers; of a copy where the bytes do not begin on a number's boundary. */
function viewOf(values: Uint8Array, encoding: Encoding) {
  const View = encoding === "i16" ? Int16Array : encoding === "i32" ? Int32Array : Float32Array;
  const width = View.BYTES_PER_ELEMENT;
  const bytes = values.byteOffset % width === 0 ? values : values.slice();
  return new View(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length / width);
}
