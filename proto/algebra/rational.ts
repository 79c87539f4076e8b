/** Exact steps between floating point and whole numbers. */

/**
 * The integer nearest to x, ties to even. Exact for every finite x, since a double of magnitude
 * 2^52 or more is whole already (IEEE 754-2019, 4.3.1).
 */
export function roundTiesToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest < 0.5) return floor;
  if (rest > 0.5) return floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** A finite double as mantissa * 2^exponent, both whole. */
export function decompose(x: number): { readonly mantissa: bigint; readonly exponent: number } {
  const bits = new BigUint64Array(new Float64Array([x]).buffer)[0] as bigint;
  const biased = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & 0xfffffffffffffn;
  const magnitude = biased === 0 ? fraction : fraction | 0x10000000000000n;
  return { mantissa: x < 0 ? -magnitude : magnitude, exponent: Math.max(biased, 1) - 1075 };
}

/** Whether whole * x < 2^power, decided exactly; whole and x not negative. */
export function productBelow(whole: bigint, x: number, power: number): boolean {
  const { mantissa, exponent } = decompose(x);
  const product = whole * mantissa;
  return exponent >= 0
    ? product << BigInt(exponent) < 1n << BigInt(power)
    : product < 1n << BigInt(power - exponent);
}

function bitLength(x: bigint): number {
  return x.toString(2).length;
}

/**
 * The double nearest to numerator / denominator, ties to even; denominator > 0 and the quotient in
 * the range of normal doubles. Keeps at least 55 bits of the quotient and a sticky bit, so that
 * the one conversion to a double, which rounds to nearest, is the only rounding.
 */
export function nearestQuotient(numerator: bigint, denominator: bigint): number {
  if (numerator === 0n) return 0;
  const magnitude = numerator < 0n ? -numerator : numerator;
  const shift = Math.max(0, 56 - bitLength(magnitude) + bitLength(denominator));
  const scaled = magnitude << BigInt(shift);
  const quotient = scaled / denominator;
  const sticky = quotient * denominator === scaled ? 0n : 1n;
  const nearest = Number((quotient << 1n) | sticky) * 2 ** -(shift + 1);
  return numerator < 0n ? -nearest : nearest;
}
