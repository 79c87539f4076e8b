/** CRC-32C (Castagnoli, RFC 3720 appendix B.4), eight bytes at a time. */
const tables = makeTables();

function makeTables(): readonly Uint32Array[] {
  const first = Uint32Array.from({ length: 256 }, (_, byte) => {
    let remainder = byte;
    for (let bit = 0; bit < 8; bit++) {
      remainder = remainder & 1 ? (remainder >>> 1) ^ 0x82_f6_3b_78 : remainder >>> 1;
    }
    return remainder;
  });
  const all = [first];
  for (let n = 1; n < 8; n++) {
    const before = all[n - 1] as Uint32Array;
    all.push(before.map((entry) => (first[entry & 0xff] as number) ^ (entry >>> 8)));
  }
  return all;
}

const [t0, t1, t2, t3, t4, t5, t6, t7] = tables as [
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
];

/** The checksum of bytes from `start` to `end`; `before` is that of what precedes them. */
export function crc32c(bytes: Uint8Array, start = 0, end = bytes.length, before = 0): number {
  let crc = ~before;
  let at = start;
  for (const stop = end - 7; at < stop; at += 8) {
    const low =
      crc ^
      ((bytes[at] as number) |
        ((bytes[at + 1] as number) << 8) |
        ((bytes[at + 2] as number) << 16) |
        ((bytes[at + 3] as number) << 24));
    crc =
      (t7[low & 0xff] as number) ^
      (t6[(low >>> 8) & 0xff] as number) ^
      (t5[(low >>> 16) & 0xff] as number) ^
      (t4[low >>> 24] as number) ^
      (t3[bytes[at + 4] as number] as number) ^
      (t2[bytes[at + 5] as number] as number) ^
      (t1[bytes[at + 6] as number] as number) ^
      (t0[bytes[at + 7] as number] as number);
  }
  for (; at < end; at++) crc = (t0[(crc ^ (bytes[at] as number)) & 0xff] as number) ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** As LevelDB writes it (doc/log_format.md): a checksum of bytes that hold checksums is weak. */
export function maskedCrc32c(bytes: Uint8Array, start: number, end: number, before = 0): number {
  const crc = crc32c(bytes, start, end, before);
  return (((crc >>> 15) | (crc << 17)) + 0xa2_82_ea_d8) >>> 0;
}
