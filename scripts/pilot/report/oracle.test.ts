import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  checkContributions,
  checkSums,
  exactSum,
  readAudit,
  type Sent,
  sumDigest,
} from "./oracle.js";

const f = 20;
const sent = (device: string, samples: number, values: number[]): Sent => ({
  round: "s.1",
  device,
  samples,
  fractionBits: [f, f],
  lengths: [1, values.length - 1],
  encoding: "f32",
  digest: "",
  values: Buffer.from(Float32Array.from(values).buffer).toString("base64"),
});
const a = sent("a", 3, [0.5, -0.25, 2 ** -f]);
const b = sent("b", 5, [-1, 0, 7]);
const audit = {
  sent: new Map([
    [
      "s.1",
      new Map([
        ["a", a],
        ["b", b],
      ]),
    ],
  ]),
  receipted: new Set(["s.1 a", "s.1 b"]),
};
const sum = [3n * 2n ** 19n - 5n * 2n ** 20n, -3n * 2n ** 18n, 3n + 35n * 2n ** 20n];
const claim = {
  model: "s.1",
  round: "s.1",
  sumDigest: sumDigest(sum),
  weight: "8",
  contributors: [
    { device: "a", samples: 3 },
    { device: "b", samples: 5 },
  ],
};

test("the sum is the hand-made one", () => {
  assert.deepEqual(exactSum([a, b]), sum);
  assert.deepEqual(checkSums(audit, [claim]), []);
});

test("a sum that is one grid point off is found", () => {
  const off = { ...claim, sumDigest: sumDigest([sum[0] ?? 0n, sum[1] ?? 0n, (sum[2] ?? 0n) + 1n]) };
  assert.deepEqual(checkSums(audit, [off]), ["s.1"]);
});

test("a wrong weight, sample count, unknown or doubled contributor is found", () => {
  assert.deepEqual(checkSums(audit, [{ ...claim, weight: "9" }]), ["s.1"]);
  const contributors = [
    { device: "a", samples: 4 },
    { device: "b", samples: 5 },
  ];
  assert.deepEqual(checkSums(audit, [{ ...claim, contributors }]), ["s.1"]);
  const stranger = [...claim.contributors, { device: "c", samples: 1 }];
  assert.deepEqual(checkSums(audit, [{ ...claim, contributors: stranger }]), ["s.1"]);
  const twice = [...claim.contributors, { device: "a", samples: 3 }];
  assert.deepEqual(checkSums(audit, [{ ...claim, contributors: twice }]), ["s.1"]);
  assert.deepEqual(checkSums(audit, [{ ...claim, contributors: [] }]), ["s.1"]);
});

test("integers on the wire are grid points themselves", () => {
  const i16: Sent = {
    ...a,
    encoding: "i16",
    lengths: [2],
    fractionBits: [4],
    values: Buffer.from(Int16Array.of(-7, 9).buffer).toString("base64"),
  };
  const i32: Sent = {
    ...a,
    encoding: "i32",
    lengths: [2],
    fractionBits: [4],
    values: Buffer.from(Int32Array.of(-70_000, 9).buffer).toString("base64"),
  };
  assert.deepEqual(exactSum([i16]), [-21n, 27n]);
  assert.deepEqual(exactSum([i32]), [-210_000n, 27n]);
});

test("missing and doubled contributions are named", () => {
  const once = { round: "s.1", device: "a", outcome: "model" };
  assert.deepEqual(checkContributions(audit, [once]), { missing: ["s.1 b"], doubled: [] });
  assert.deepEqual(checkContributions(audit, [once, once, { ...once, device: "b" }]), {
    missing: [],
    doubled: ["s.1 a"],
  });
});

test("a torn last line of an audit file is passed over", async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-oracle-"));
  const whole = `${JSON.stringify({ type: "sent", ...a })}\n${JSON.stringify({ type: "receipt", round: "s.1" })}\n`;
  await writeFile(join(dir, "a.jsonl"), `${whole}{"type":"sent","round":"s.2","val`);
  const read = await readAudit(dir);
  await rm(dir, { recursive: true });
  assert.deepEqual([...read.receipted], ["s.1 a"]);
  assert.deepEqual([...read.sent.keys()], ["s.1"]);
});
