import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { seededRandom } from "../host/random.js";
import {
  claimText,
  isSecret,
  makeClaim,
  matchesName,
  namePatternSchema,
  readClaim,
  secretDigest,
} from "./claim.js";
import { identitySchema, readSubjectUri, type Subject, subjectUri } from "./names.js";

const first = fc.constantFrom(...Array.from("abzAZ09"));
const rest = fc.string({ unit: fc.constantFrom(...Array.from("abzAZ09_-")), maxLength: 63 });
const id = fc.tuple(first, rest).map(([a, b]) => a + b);
const plain = { noNullPrototype: true };
const kind = fc.constantFrom("gateway" as const, "device" as const);
const subject: fc.Arbitrary<Subject> = fc.oneof(
  fc.record({ fleet: id, kind, site: id, name: id }, plain),
  fc.record({ fleet: id, kind: fc.constant("cloud" as const), name: id }, plain),
);

test("a subject's URI says the subject again, and no other text does", () => {
  fc.assert(
    fc.property(subject, (given) => assert.deepEqual(readSubjectUri(subjectUri(given)), given)),
  );
  fc.assert(
    fc.property(
      subject,
      fc.nat(300),
      fc.constantFrom(...Array.from(" /.%:@?#\0é\n")),
      (given, at, char) => {
        const uri = subjectUri(given);
        const place = at % (uri.length + 1);
        const changed = uri.slice(0, place) + char + uri.slice(place);
        const read = readSubjectUri(changed);
        if (read !== undefined) assert.equal(subjectUri(read), changed);
      },
    ),
  );
});

test("names that mean something to a program are no names", () => {
  for (const name of [
    "__proto__",
    "constructor",
    "toString",
    "",
    "..",
    ".",
    "a/b",
    "a\0",
    "-a",
    "_a",
    "a".repeat(65),
    "é",
  ]) {
    assert.ok(!identitySchema.safeParse({ kind: "device", name, site: "s" }).success, name);
    assert.equal(readSubjectUri(`tributary:f/device/s/${name}`), undefined);
    assert.equal(readSubjectUri(`tributary:f/device/${name}/d`), undefined);
  }
});

test("a claim's text says the claim again, and what is changed is none or another", () => {
  const claim = makeClaim(seededRandom(1), "A".repeat(43));
  const text = claimText(claim);
  assert.match(text, /^tc1\.[a-z2-7]{12}\.[A-Za-z0-9_-]{43}\.A{43}$/);
  assert.deepEqual(readClaim(text), claim);
  for (const bad of ["", `${text}x`, ` ${text}`, `${text}\n`, text.replace("tc1", "tc2"), "tc1..."])
    assert.equal(readClaim(bad), undefined, JSON.stringify(bad));
  assert.notDeepEqual(makeClaim(seededRandom(2), claim.anchor), claim);
});

test("a secret is known by its digest", () => {
  const digest = secretDigest("a secret");
  assert.ok(isSecret("a secret", digest));
  assert.ok(!isSecret("a secret ", digest));
});

test("a pattern's star stands for any characters, once", () => {
  const cases: readonly (readonly [string, string, boolean])[] = [
    ["press-7", "press-7", true],
    ["press-7", "press-70", false],
    ["press-*", "press-7", true],
    ["press-*", "press-", true],
    ["press-*", "pres", false],
    ["*", "anything", true],
    ["a*a", "a", false],
    ["a*a", "aa", true],
    ["*-north", "g1-north", true],
  ];
  for (const [pattern, name, fits] of cases) {
    assert.ok(namePatternSchema.safeParse(pattern).success, pattern);
    assert.equal(matchesName(pattern, name), fits, `${pattern} ${name}`);
  }
  for (const bad of ["", "a*b*", "-a", "a.b", "__proto__", "a".repeat(65), "**", "a b"])
    assert.ok(!namePatternSchema.safeParse(bad).success, bad);
});
