import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { limits } from "./limits.js";
import {
  decodeSafetensors,
  encodeSafetensors,
  SAFETENSORS_HEADER_BYTES_MAX,
} from "./safetensors.js";

const utf8 = new TextEncoder();

/** A file with this header text and so many bytes of zeros as data. */
function file(header: string, dataBytes = 0, length?: bigint): Uint8Array {
  const json = utf8.encode(header);
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

function entry(shape: readonly number[], begin: number, end: number, dtype = "F32"): string {
  return JSON.stringify({ dtype, shape, data_offsets: [begin, end] });
}

function refused(bytes: Uint8Array, message: RegExp): void {
  const result = decodeSafetensors(bytes);
  assert.equal(result.ok, false);
  assert.ok(!result.ok && result.code === "model-malformed");
  assert.match(result.message, message);
}

const layouts = fc.uniqueArray(
  fc
    .tuple(
      fc.string({ minLength: 1, maxLength: 12 }),
      fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
    )
    .map(([text, shape]) => ({ name: `t${text}`, shape })),
  { selector: (tensor) => tensor.name, maxLength: 6 },
);

test("what is written is read back to the bit, in layout order", () => {
  fc.assert(
    fc.property(
      layouts,
      fc.infiniteStream(fc.float()),
      fc.dictionary(
        fc.string().filter((key) => key !== "__proto__"),
        fc.string(),
      ),
      (layout, stream, metadata) => {
        const count = layout.reduce(
          (sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1),
          0,
        );
        const values = Float32Array.from({ length: count }, () => stream.next().value as number);
        const bytes = encodeSafetensors(layout, values, metadata);
        const headerBytes = Number(new DataView(bytes.buffer).getBigUint64(0, true));
        assert.equal(headerBytes % 8, 0);
        const back = decodeSafetensors(bytes);
        assert.ok(back.ok);
        assert.deepEqual(back.layout, layout);
        assert.deepEqual(new Uint8Array(back.values.buffer), new Uint8Array(values.buffer));
        assert.deepEqual({ ...back.metadata }, { ...metadata });
      },
    ),
    { numRuns: 200 },
  );
});

test("the layout's order is the data's, not the header's", () => {
  const result = decodeSafetensors(
    file(`{"late":${entry([1], 8, 12)},"early":${entry([2], 0, 8)}}`, 12),
  );
  assert.ok(result.ok);
  assert.deepEqual(
    result.layout.map((tensor) => tensor.name),
    ["early", "late"],
  );
});

test("a file at an odd offset of its buffer is read", () => {
  const bytes = encodeSafetensors([{ name: "w", shape: [2] }], Float32Array.of(1, 2));
  const shifted = new Uint8Array(bytes.length + 3).subarray(3);
  shifted.set(bytes);
  const result = decodeSafetensors(shifted);
  assert.ok(result.ok);
  assert.deepEqual([...result.values], [1, 2]);
});

test("hostile files are refused with what is wrong", () => {
  const good = entry([1], 0, 4);
  refused(new Uint8Array(0), /no header length/);
  refused(new Uint8Array(7), /no header length/);
  refused(file("{}", 0, 2n ** 63n), /at most/);
  refused(file("{}", 0, BigInt(SAFETENSORS_HEADER_BYTES_MAX) + 1n), /at most/);
  refused(file("{}", 0, 3n), /cut short/);
  refused(file("{"), /not JSON/);
  refused(file("[".repeat(100_000)), /not JSON/);
  refused(file("\ufeff{}"), /not JSON/);
  refused(file("[]"), /not a JSON object/);
  refused(file("null"), /not a JSON object/);
  refused(file(`{"w":null}`), /needs dtype/);
  refused(file(`{"w":7}`), /needs dtype/);
  refused(file(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}`, 4), /only/);
  refused(file(`{"w":${entry([1], 0, 2, "F16")}}`, 2), /F16; only F32/);
  refused(file(`{"w":${entry([2], 0, 4)}}`, 4), /between its offsets/);
  refused(file(`{"w":${entry([-1], 0, 4)}}`, 4), /bounds/);
  refused(file(`{"w":${entry([0.5], 0, 2)}}`, 2), /bounds/);
  refused(file(`{"w":${entry([1, 1, 1, 1, 1, 1, 1, 1, 1], 0, 4)}}`, 4), /bounds/);
  refused(file(`{"":${good}}`, 4), /bounds/);
  refused(file(`{"${"n".repeat(257)}":${good}}`, 4), /bounds/);
  refused(file(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 4), /offsets/);
  refused(file(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, 4), /offsets/);
  refused(file(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}`, 4), /needs dtype/);
  refused(file(`{"w":${good}}`, 3), /bytes of values where/);
  refused(file(`{"w":${good}}`, 8), /bytes of values where/);
  refused(file(`{"v":${entry([2], 0, 8)},"w":${entry([2], 4, 12)}}`, 12), /overlaps/);
  refused(file(`{"v":${entry([1], 0, 4)},"w":${entry([1], 8, 12)}}`, 12), /hole/);
  refused(file(`{"w":${entry([1], 4, 8)}}`, 8), /hole/);
});

test("a shape whose product passes 2^53 is refused, not wrapped", () => {
  const big = 2 ** 29;
  refused(file(`{"w":${entry([big, big, big, 0.5], 0, 4)}}`, 4), /bounds/);
  refused(file(`{"w":${entry([big, big, big, big, big], 0, 4)}}`, 4), /between its offsets/);
});

test("names that JSON would swallow are refused", () => {
  const good = entry([1], 0, 4);
  refused(file(`{"w":${good},"w":${good}}`, 4), /twice/);
  refused(file(`{"w":${good},"\\u0077":${good}}`, 4), /twice/);
  refused(file(`{"w":{"dtype":"F16","dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), /twice/);
  refused(file(`{"__metadata__":{"a":"1","a":"2"},"w":${good}}`, 4), /twice/);
  refused(file(`{"__proto__":${good}}`, 4), /cannot be named/);
  refused(file(`{"__metadata__":{"__proto__":"x"}}`), /text to text/);
  refused(file(`{"__metadata__":{"a":1}}`), /text to text/);
  refused(file(`{"__metadata__":"a"}`), /text to text/);
});

test("colons and escapes inside names are no names", () => {
  const layout = [{ name: 'a:"b\\', shape: [1] }];
  const result = decodeSafetensors(
    encodeSafetensors(layout, Float32Array.of(1), { "k:": '\\":"' }),
  );
  assert.ok(result.ok);
  assert.deepEqual(result.layout, layout);
});

test("more tensors than the bound are refused", () => {
  const header = Array.from(
    { length: limits.tensors + 1 },
    (_, i) => `"t${i}":${entry([0], 0, 0)}`,
  );
  refused(file(`{${header.join(",")}}`), /more than/);
});

test("any bytes, and any damage to a good file, are read or refused but never thrown", () => {
  const good = encodeSafetensors([{ name: "w", shape: [2, 2] }], new Float32Array(4), { a: "b" });
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      assert.equal(typeof decodeSafetensors(bytes).ok, "boolean");
    }),
  );
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(good.length - 1), fc.integer({ min: 0, max: 255 })), {
        minLength: 1,
        maxLength: 4,
      }),
      fc.nat(good.length),
      (edits, cut) => {
        const bytes = good.slice();
        for (const [at, value] of edits) bytes[at] = value;
        assert.equal(typeof decodeSafetensors(bytes).ok, "boolean");
        const short = decodeSafetensors(good.subarray(0, cut));
        assert.equal(short.ok, cut === good.length);
      },
    ),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(fc.json({ depthSize: "small" }), fc.nat(16), (json, dataBytes) => {
      assert.equal(typeof decodeSafetensors(file(json, dataBytes)).ok, "boolean");
    }),
    { numRuns: 300 },
  );
});

test("the encoder throws on a count or a name that cannot be a file", () => {
  const one = [{ name: "w", shape: [1] }];
  assert.throws(() => encodeSafetensors(one, new Float32Array(2)), RangeError);
  for (const name of ["__metadata__", "__proto__"])
    assert.throws(() => encodeSafetensors([{ name, shape: [1] }], new Float32Array(1)), RangeError);
  assert.throws(() => encodeSafetensors([...one, ...one], new Float32Array(2)), RangeError);
});
