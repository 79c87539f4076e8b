import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type AuditEntry,
  type AuditLine,
  type ChainFault,
  type ChainHead,
  chainRoot,
  checkChain,
  linkLine,
} from "./chain.js";

const entry: AuditEntry = {
  atMs: 1_700_000_000_000,
  actor: "user:ada",
  action: "POST /sessions",
  target: "/sessions",
  project: "default",
  outcome: "done",
  detail: { name: "run-1", initialModel: "digits.0" },
};

function chainOf(count: number): AuditLine[] {
  const lines: AuditLine[] = [];
  let head: ChainHead = chainRoot;
  for (let at = 0; at < count; at++) {
    const line = linkLine(head, { ...entry, atMs: entry.atMs + at });
    lines.push(line);
    head = line;
  }
  return lines;
}

function faultIn(lines: readonly AuditLine[], known?: ChainHead): ChainFault | undefined {
  const check = checkChain(known);
  for (const line of lines) {
    const fault = check.take(line);
    if (fault !== undefined) return fault;
  }
  return check.end();
}

test("a line's hash is that of its JSON with sorted names", () => {
  const first = linkLine(chainRoot, entry);
  // As Python's json.dumps(line, sort_keys=True, separators=(',', ':')) and hashlib give it.
  assert.equal(first.hash, "2a86d7e9ce8b1432e2b9e028604d9cb41627a79a389565978a692eb36fcf9f10");
  assert.deepEqual([first.sequence, first.prev], [1, "0".repeat(64)]);
});

test("a whole chain holds, and is tied to an earlier look at it", () => {
  const lines = chainOf(6);
  assert.equal(faultIn(lines), undefined);
  for (const known of [chainRoot, ...lines]) assert.equal(faultIn(lines, known), undefined);
  assert.equal(faultIn([]), undefined);
});

test("an audit line that was tampered with is found, whatever was changed in it", () => {
  const lines = chainOf(6);
  const changes = fc.oneof(
    fc.record({ actor: fc.string() }),
    fc.record({ action: fc.string() }),
    fc.record({ outcome: fc.string() }),
    fc.record({ target: fc.string() }),
    fc.record({ project: fc.constant(null) }),
    fc.record({ atMs: fc.integer() }),
    fc.record({ detail: fc.dictionary(fc.string(), fc.string()) }),
    fc.record({ hash: fc.constant("ab".repeat(32)) }),
    fc.record({ prev: fc.constant("ab".repeat(32)) }),
  );
  fc.assert(
    fc.property(fc.nat({ max: 5 }), changes, (at, change) => {
      const tampered = lines.map((line, index) => (index === at ? { ...line, ...change } : line));
      fc.pre(JSON.stringify(tampered[at]) !== JSON.stringify(lines[at]));
      assert.equal(faultIn(tampered)?.sequence, at + 1);
    }),
  );
});

test("a line that is gone, or in another place, is found", () => {
  const lines = chainOf(6);
  for (let at = 0; at < 5; at++)
    assert.deepEqual(faultIn(lines.toSpliced(at, 1)), { sequence: at + 1, fault: "missing" });
  assert.equal(
    faultIn([...lines.slice(0, 2), ...lines.slice(3), ...lines.slice(2, 3)])?.sequence,
    3,
  );
});

test("a line that was put in the place of another, with a hash of its own, is found by the next", () => {
  const lines = chainOf(6);
  const [, second, third] = lines;
  assert.ok(second && third);
  const { sequence: _sequence, prev: _prev, hash: _hash, ...rest } = third;
  const forged = linkLine(second, { ...rest, actor: "user:eve" });
  assert.deepEqual(faultIn(lines.with(2, forged)), { sequence: 4, fault: "replaced" });
});

test("a chain that was cut, or written anew as a whole, is not the one seen before", () => {
  const lines = chainOf(6);
  const known = lines[4];
  assert.ok(known);
  assert.deepEqual(faultIn(lines.slice(0, 4), known), { sequence: 5, fault: "missing" });
  let head: ChainHead = chainRoot;
  const anew = lines.map((line, at) => {
    const { sequence: _sequence, prev: _prev, hash: _hash, ...rest } = line;
    const next = linkLine(head, at === 1 ? { ...rest, actor: "user:eve" } : rest);
    head = next;
    return next;
  });
  assert.equal(faultIn(anew), undefined);
  assert.deepEqual(faultIn(anew, known), { sequence: 5, fault: "replaced" });
});
