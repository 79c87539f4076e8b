// AssemblyScript, compiled by build.js. Every function works on addresses of its own memory; the
// wrapper in kernel.ts owns the map of that memory and all bounds.
//
// The folds rest on one identity. For an integer p with |p| < 2^51 the double p + 1.5 * 2^52 is
// exact and its bit pattern, read as an integer, is BIAS + p, with BIAS the pattern of 1.5 * 2^52.
// So adding bit patterns adds integers with no conversion. Each fold leaves one BIAS in every sum
// it touches; `settle` takes them off, modulo 2^64, which is exact whatever their number.

const MAGIC: f64 = 6755399441055744.0; // 1.5 * 2^52

function addPair(target: usize, values: v128, scale: v128, magic: v128): void {
  const pattern = f64x2.add(f64x2.mul(values, scale), magic);
  v128.store(target, i64x2.add(v128.load(target), pattern));
}

function addOne(target: usize, value: f64, scale: f64): void {
  store<i64>(target, load<i64>(target) + reinterpret<i64>(value * scale + MAGIC));
}

function pairF32(source: usize, target: usize, scale: v128, magic: v128): void {
  addPair(target, f64x2.promote_low_f32x4(v128.load64_zero(source)), scale, magic);
}

/** sums[i] += BIAS + v[i] * scale; v float32 on the grid, scale = n * 2^f. */
export function foldF32(source: usize, target: usize, count: usize, scale: f64): void {
  const k = f64x2.splat(scale);
  const m = f64x2.splat(MAGIC);
  const end = source + (count << 2);
  const wide = source + ((count & ~15) << 2);
  while (source < wide) {
    pairF32(source, target, k, m);
    pairF32(source + 8, target + 16, k, m);
    pairF32(source + 16, target + 32, k, m);
    pairF32(source + 24, target + 48, k, m);
    pairF32(source + 32, target + 64, k, m);
    pairF32(source + 40, target + 80, k, m);
    pairF32(source + 48, target + 96, k, m);
    pairF32(source + 56, target + 112, k, m);
    source += 64;
    target += 128;
  }
  while (source < end) {
    addOne(target, <f64>load<f32>(source), scale);
    source += 4;
    target += 8;
  }
}

function pairI32(source: usize, target: usize, scale: v128, magic: v128): void {
  addPair(target, f64x2.convert_low_i32x4_s(v128.load64_zero(source)), scale, magic);
}

/** sums[i] += BIAS + q[i] * scale; q int32, scale = n. */
export function foldI32(source: usize, target: usize, count: usize, scale: f64): void {
  const k = f64x2.splat(scale);
  const m = f64x2.splat(MAGIC);
  const end = source + (count << 2);
  const wide = source + ((count & ~7) << 2);
  while (source < wide) {
    pairI32(source, target, k, m);
    pairI32(source + 8, target + 16, k, m);
    pairI32(source + 16, target + 32, k, m);
    pairI32(source + 24, target + 48, k, m);
    source += 32;
    target += 64;
  }
  while (source < end) {
    addOne(target, <f64>load<i32>(source), scale);
    source += 4;
    target += 8;
  }
}

function fourI16(source: usize, target: usize, scale: v128, magic: v128): void {
  const four = v128.load16x4_s(source);
  addPair(target, f64x2.convert_low_i32x4_s(four), scale, magic);
  const high = v128.shuffle<i64>(four, four, 1, 1);
  addPair(target + 16, f64x2.convert_low_i32x4_s(high), scale, magic);
}

/** sums[i] += BIAS + q[i] * scale; q int16, scale = n. */
export function foldI16(source: usize, target: usize, count: usize, scale: f64): void {
  const k = f64x2.splat(scale);
  const m = f64x2.splat(MAGIC);
  const end = source + (count << 1);
  const wide = source + ((count & ~7) << 1);
  while (source < wide) {
    fourI16(source, target, k, m);
    fourI16(source + 8, target + 32, k, m);
    source += 16;
    target += 64;
  }
  while (source < end) {
    addOne(target, <f64>load<i16>(source), scale);
    source += 2;
    target += 8;
  }
}

/** sums[i] += s[i]; s int64. */
export function merge(source: usize, target: usize, count: usize): void {
  const end = source + (count << 3);
  const wide = source + ((count & ~3) << 3);
  while (source < wide) {
    v128.store(target, i64x2.add(v128.load(target), v128.load(source)));
    v128.store(target, i64x2.add(v128.load(target, 16), v128.load(source, 16)), 16);
    source += 32;
    target += 32;
  }
  while (source < end) {
    store<i64>(target, load<i64>(target) + load<i64>(source));
    source += 8;
    target += 8;
  }
}

/** sums[i] -= bias. */
export function settle(target: usize, count: usize, bias: i64): void {
  const b = i64x2.splat(bias);
  const end = target + (count << 3);
  const wide = target + ((count & ~3) << 3);
  while (target < wide) {
    v128.store(target, i64x2.sub(v128.load(target), b));
    v128.store(target, i64x2.sub(v128.load(target, 16), b), 16);
    target += 32;
  }
  while (target < end) {
    store<i64>(target, load<i64>(target) - bias);
    target += 8;
  }
}

export function clear(target: usize, count: usize): void {
  memory.fill(target, 0, count << 3);
}

function offGrid(values: v128, scale: v128): v128 {
  const x = f32x4.mul(values, scale);
  return v128.xor(x, f32x4.nearest(x));
}

function magnitude(values: v128, mask: v128): v128 {
  return v128.and(values, mask);
}

/**
 * 1 when every v is finite, |v| <= limit and v * scale is an integer (scale = 2^f, a power of two,
 * so that the product is exact). Magnitudes compare as integers, where NaN is the largest of all.
 */
export function checkF32(source: usize, count: usize, limit: f32, scale: f32): i32 {
  const k = f32x4.splat(scale);
  const mask = i32x4.splat(0x7fffffff);
  const end = source + (count << 2);
  const wide = source + ((count & ~15) << 2);
  let large = i32x4.splat(0);
  let large2 = i32x4.splat(0);
  let off = i32x4.splat(0);
  let off2 = i32x4.splat(0);
  while (source < wide) {
    const a = v128.load(source);
    const b = v128.load(source, 16);
    const c = v128.load(source, 32);
    const d = v128.load(source, 48);
    large = i32x4.max_s(large, magnitude(a, mask));
    large2 = i32x4.max_s(large2, magnitude(b, mask));
    off = v128.or(off, offGrid(a, k));
    off2 = v128.or(off2, offGrid(b, k));
    large = i32x4.max_s(large, magnitude(c, mask));
    large2 = i32x4.max_s(large2, magnitude(d, mask));
    off = v128.or(off, offGrid(c, k));
    off2 = v128.or(off2, offGrid(d, k));
    source += 64;
  }
  while (source < end) {
    const a = v128.load32_zero(source);
    large = i32x4.max_s(large, magnitude(a, mask));
    off = v128.or(off, offGrid(a, k));
    source += 4;
  }
  const past = i32x4.gt_s(i32x4.max_s(large, large2), i32x4.splat(reinterpret<i32>(limit)));
  return v128.any_true(v128.or(past, v128.or(off, off2))) ? 0 : 1;
}

/** 1 when every |q| <= limit; q int32. */
export function checkI32(source: usize, count: usize, limit: i32): i32 {
  const end = source + (count << 2);
  const wide = source + ((count & ~7) << 2);
  let low = i32x4.splat(0);
  let high = i32x4.splat(0);
  while (source < wide) {
    const a = v128.load(source);
    const b = v128.load(source, 16);
    low = i32x4.min_s(low, i32x4.min_s(a, b));
    high = i32x4.max_s(high, i32x4.max_s(a, b));
    source += 32;
  }
  while (source < end) {
    const a = v128.load32_zero(source);
    low = i32x4.min_s(low, a);
    high = i32x4.max_s(high, a);
    source += 4;
  }
  const past = v128.or(i32x4.gt_s(high, i32x4.splat(limit)), i32x4.lt_s(low, i32x4.splat(-limit)));
  return v128.any_true(past) ? 0 : 1;
}

/** 1 when every |q| <= limit; q int16, limit <= 32767. */
export function checkI16(source: usize, count: usize, limit: i32): i32 {
  const end = source + (count << 1);
  const wide = source + ((count & ~7) << 1);
  let low = i16x8.splat(0);
  let high = i16x8.splat(0);
  while (source < wide) {
    const a = v128.load(source);
    low = i16x8.min_s(low, a);
    high = i16x8.max_s(high, a);
    source += 16;
  }
  while (source < end) {
    const a = i16x8.splat(load<i16>(source));
    low = i16x8.min_s(low, a);
    high = i16x8.max_s(high, a);
    source += 2;
  }
  const past = v128.or(
    i16x8.gt_s(high, i16x8.splat(<i16>limit)),
    i16x8.lt_s(low, i16x8.splat(<i16>-limit)),
  );
  return v128.any_true(past) ? 0 : 1;
}
