import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import type { z } from "zod";
import { decodeCbor } from "../wire/cbor.js";
import { allSchemas, type Begin, downSchemas, upSchemas } from "../wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "../wire/envelope.js";
import { limits } from "../wire/limits.js";
import { encodePlan, leanPlan, type Plan, planSchema } from "../wire/plan.js";
import { updatePreimage } from "../wire/update.js";

type Case = { way: "up" | "down" | "all"; kind: string; hex: string };
type Vectors = {
  valid: (Case & { header: unknown; payload: string; note?: string })[];
  invalid: (Case & { name: string; code: string })[];
  updates: {
    device: string;
    begin: Omit<Begin, "digest">;
    preimage: string;
    payload: string;
    digest: string;
  }[];
  cborOfPlan: { plan: unknown; hex: string };
};

/** `{"$hex": "..."}` stands for bytes. */
const revive = (_key: string, value: unknown): unknown =>
  typeof value === "object" && value !== null && "$hex" in value
    ? bytesOf(String(value.$hex))
    : value;
const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex, "hex"));

const file = new URL("../../vectors/wire.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8"), revive) as Vectors;
const schemas: Record<string, Record<string, z.ZodType>> = {
  up: upSchemas,
  down: downSchemas,
  all: allSchemas,
};

function decode({ way, kind, hex }: Case) {
  const schema = schemas[way]?.[kind];
  assert.ok(schema, `${way}/${kind}`);
  return decodeEnvelope(
    schema,
    bytesOf(hex),
    way === "up" ? limits.upHeaderBytes : limits.downHeaderBytes,
  );
}

/** cbor-x hands out Buffers; vectors hold plain Uint8Arrays. */
const plain = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (_key, v) =>
      v?.type === "Buffer" ? { bytes: v.data } : v instanceof Uint8Array ? { bytes: [...v] } : v,
    ),
  );

test("there are more invalid cases than valid ones", () => {
  assert.ok(vectors.valid.length >= 14);
  assert.ok(vectors.invalid.length > vectors.valid.length);
});

/** A header with the additions left out of its plan, as every sender leaves them out. */
function asSent(header: unknown): unknown {
  const { plan } = header as { plan?: Plan };
  return plan === undefined ? header : { ...(header as object), plan: leanPlan(plan) };
}

for (const vector of vectors.valid) {
  test(`${vector.way}/${vector.kind} reads back ${vector.note ?? ""}`, () => {
    const envelope = decode(vector);
    assert.ok(envelope.ok, envelope.ok ? "" : envelope.message);
    assert.deepEqual(plain(asSent(envelope.header)), plain(vector.header));
    assert.equal(Buffer.from(envelope.payload).toString("hex"), vector.payload);
  });
}

test("every kind of every way has a vector", () => {
  for (const [way, kinds] of Object.entries(schemas)) {
    for (const kind of Object.keys(kinds)) {
      assert.ok(
        vectors.valid.some((v) => v.way === way && v.kind === kind),
        `${way}/${kind}`,
      );
    }
  }
});

for (const vector of vectors.invalid) {
  test(`${vector.way}/${vector.kind} with ${vector.name} is ${vector.code}`, () => {
    const envelope = decode(vector);
    assert.ok(!envelope.ok);
    assert.equal(envelope.code, vector.code);
    assert.ok(envelope.message.length > 0 && envelope.message.length <= limits.messageChars);
  });
}

for (const update of vectors.updates) {
  test(`the digest of ${update.device}'s update`, () => {
    assert.equal(updatePreimage(update.device, update.begin), update.preimage);
    const hash = createHash("sha256").update(update.preimage).update(bytesOf(update.payload));
    assert.equal(hash.digest("hex"), update.digest);
  });
}

test("the plan's CBOR reads back", () => {
  const cbor = decodeCbor(bytesOf(vectors.cborOfPlan.hex), { depth: 6, items: 1000 });
  assert.ok(cbor.ok);
  const plan = planSchema.parse(cbor.value);
  assert.deepEqual(plain(leanPlan(plan)), plain(vectors.cborOfPlan.plan));
  assert.equal(Buffer.from(encodePlan(plan)).toString("hex"), vectors.cborOfPlan.hex);
});

test("a plan says only which additions it asks for", () => {
  const plain = planSchema.parse(vectors.cborOfPlan.plan);
  const { siteRounds, offlineSiteRounds, perSite, finishFirst } = plain;
  assert.deepEqual([siteRounds, offlineSiteRounds, perSite, finishFirst], [1, 0, false, false]);
  const asking = { ...plain, saturate: true, siteRounds: 3, perSite: true };
  const cbor = decodeCbor(encodePlan(asking), { depth: 6, items: 1000 });
  assert.ok(cbor.ok);
  assert.deepEqual(
    Object.keys(cbor.value as object).filter((key) => !(key in leanPlan(plain))),
    ["siteRounds", "perSite"],
  );
  assert.deepEqual(planSchema.parse(cbor.value), asking);
  for (const unsound of [{ siteRounds: 2 }, { offlineSiteRounds: 1 }])
    assert.ok(!planSchema.safeParse({ ...plain, ...unsound, saturate: false }).success);
});

test("cut or bent envelopes are refused or read, and never throw", () => {
  const base = vectors.valid.map((vector) => ({ vector, bytes: bytesOf(vector.hex) }));
  const change = fc.record({
    of: fc.constantFrom(...base),
    cut: fc.nat(400),
    at: fc.nat(400),
    to: fc.nat(255),
  });
  fc.assert(
    fc.property(change, ({ of, cut, at, to }) => {
      const bytes = of.bytes.slice(0, Math.max(0, of.bytes.length - cut));
      if (at < bytes.length) bytes[at] = to;
      decode({ ...of.vector, hex: Buffer.from(bytes).toString("hex") });
    }),
    { numRuns: 3000 },
  );
});

test("an envelope's payload is a view of the bytes that came", () => {
  const bytes = encodeEnvelope({ round: "s.1", offset: 0 }, Uint8Array.of(1, 2, 3));
  const envelope = decodeEnvelope(upSchemas.chunk, bytes, limits.upHeaderBytes);
  assert.ok(envelope.ok);
  assert.equal(envelope.payload.buffer, bytes.buffer);
});
