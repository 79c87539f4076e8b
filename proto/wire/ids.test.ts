import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { attributesSchema, metricsSchema } from "./device-link.js";
import {
  attributeNameSchema,
  idSchema,
  isId,
  metricNameSchema,
  modelIdSchema,
  numberedIdSchema,
  siteRoundId,
  splitNumberedId,
} from "./ids.js";
import { trainingSchema } from "./plan.js";

test("a round or model is split into session, number and site round", () => {
  assert.deepEqual(splitNumberedId("press-line.0"), { session: "press-line", number: 0 });
  assert.deepEqual(splitNumberedId("s.12"), { session: "s", number: 12 });
  assert.deepEqual(splitNumberedId(siteRoundId("s.12", 3)), { session: "s", number: 12, site: 3 });
});

test("what is neither is not split, and not accepted", () => {
  const long = "s".repeat(64);
  for (const id of [
    "",
    "s",
    "s.",
    ".1",
    "s.01",
    "s.-1",
    "s.1.0",
    "s.1.01",
    "s.1.2.3",
    "s.1.",
    "s.1234567890",
    "../s.1",
    "s.1\n",
    `${long}.123456789.123456789x`,
  ]) {
    assert.equal(splitNumberedId(id), undefined, id);
    assert.ok(!modelIdSchema.safeParse(id).success, id);
  }
  assert.ok(modelIdSchema.safeParse(`${long}.123456789.123456789`).success);
});

test("the cloud's own ids have no site round", () => {
  assert.ok(numberedIdSchema.safeParse("s.1").success);
  assert.ok(!numberedIdSchema.safeParse("s.1.1").success);
});

/** What an empty object already has. */
const inherited = Object.getOwnPropertyNames(Object.prototype);

test("nothing that objects inherit is an id, a session's name, or the name of a value", () => {
  for (const name of [...inherited, "prototype", "__proto__", "__proto_"]) {
    assert.ok(!isId(name), name);
    assert.ok(!idSchema.safeParse(name).success, name);
    assert.ok(!metricNameSchema.safeParse(name).success, name);
    assert.ok(!attributeNameSchema.safeParse(name).success, name);
    for (const id of [`${name}.1`, `${name}.1.2`]) {
      assert.equal(splitNumberedId(id), undefined, id);
      assert.ok(!modelIdSchema.safeParse(id).success, id);
    }
    assert.ok(!numberedIdSchema.safeParse(`${name}.1`).success, name);
    // `__proto__` would name the parent of a plain object.
    const named = Object.fromEntries([[name, 1]]);
    if (name === "__proto__") continue;
    assert.ok(!attributesSchema.safeParse(named).success, name);
    assert.ok(!metricsSchema.safeParse(named).success, name);
    assert.ok(!trainingSchema.safeParse(named).success, name);
  }
});

test("an id is no member of a map that is empty", () => {
  const id = fc.oneof(fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_-]{0,20}$/), fc.string());
  const empty: Readonly<Record<string, unknown>> = {};
  fc.assert(
    fc.property(fc.oneof(id, fc.constantFrom(...inherited)), (text) => {
      if (isId(text)) assert.equal(empty[text], undefined);
    }),
  );
});

test("what only looks like a reserved name is free", () => {
  for (const name of ["constructor-1", "Constructor", "to-string", "a__proto__", "then"])
    assert.ok(isId(name), name);
});
