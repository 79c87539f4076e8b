import assert from "node:assert/strict";
import { test } from "node:test";
import { encodePartial } from "../algebra/frame.js";
import type { Partial as Sum } from "../algebra/partial.js";
import { createManualClock } from "../host/clock.js";
import { sha256 } from "../host/digest.js";
import { memoryDisk } from "../host/memory-disk.js";
import { TributaryError } from "../wire/errors.js";
import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import { identityText } from "./identity.js";
import {
  type Announcement,
  createInbox,
  type Destination,
  type InboxAnswer,
  type PartialReceipt,
  type Settled,
} from "./inbox.js";
import { limits } from "./limits.js";

type Delivery = Verdict<{ readonly receipt: PartialReceipt }>;

/** An inbox over rounds that remember what they settled, as the store does. */
function setup(answer: (partial: Sum) => Delivery | Promise<Delivery> = merged) {
  const disk = memoryDisk();
  const clock = createManualClock();
  const settled = new Map<string, Settled>();
  const delivered: Sum[] = [];
  const refusals: Refusal[] = [];
  const destination: Destination = {
    settled: async (identity) => settled.get(identityText(identity)),
    knowsRound: async (round) => round.startsWith("s."),
    async deliver({ identity, digest, totalBytes }, partial) {
      const verdict = await answer(partial);
      if (verdict.ok) {
        delivered.push(partial);
        const state = { receivedBytes: totalBytes, receipt: { ...verdict.receipt, digest } };
        settled.set(identityText(identity), { digest, state });
        return { ok: true, receipt: state.receipt };
      }
      return verdict;
    },
    async recordRefusal({ identity, digest }, refusal) {
      refusals.push(refusal);
      settled.set(identityText(identity), { digest, state: { receivedBytes: 0, refusal } });
    },
  };
  return {
    inbox: createInbox(disk, clock, destination),
    destination,
    disk,
    clock,
    delivered,
    refusals,
  };
}

function merged(): Delivery {
  return { ok: true, receipt: { digest: "", outcome: "merged", rule: "" } };
}

function announce(bytes: Uint8Array, over: Partial<Announcement> = {}): Announcement {
  const identity = { gateway: "g", incarnation: "i", sequence: 1 };
  return { identity, round: "s.1", digest: sha256(bytes), totalBytes: bytes.length, ...over };
}

/** A sum of devices `a` (2 samples) and `b` (3), every delta a step; `a` in each of the rounds. */
function sumOf(coordinates = 3, rounds: readonly string[] = ["s.1"]): Sum {
  const contributors = rounds.map((round) => ({ round, device: "a", samples: 2, updates: 1 }));
  const last = { round: rounds.at(-1) ?? "s.1", device: "b", samples: 3, updates: 1 };
  const weight = BigInt(2 * rounds.length + 3);
  return {
    base: "s.0",
    baseDigest: sha256(new Uint8Array()),
    grid: { fractionBits: [8], range: 1 },
    layout: [{ name: "w", shape: [coordinates] }],
    weight,
    site: "plant",
    contributors: [...contributors, last],
    metrics: {},
    saturated: 0,
    sum: new BigInt64Array(coordinates).fill(weight),
  };
}

const encoded = (sum: Sum) => new Uint8Array(Buffer.concat(encodePartial(sum)));

const bytes = encoded(sumOf());

async function send(
  inbox: ReturnType<typeof setup>["inbox"],
  announcement: Announcement,
  of: Uint8Array = bytes,
): Promise<InboxAnswer> {
  const opened = await inbox.open(announcement);
  if (!opened.ok || opened.state.receipt || opened.state.refusal) return opened;
  const offset = opened.state.receivedBytes;
  const sender = inbox.sender(announcement.identity);
  assert.ok(sender);
  return sender.write(offset, of.subarray(offset));
}

function stateOf(answer: InboxAnswer) {
  assert.ok(answer.ok, JSON.stringify(answer));
  return answer.state;
}

function codeOf(answer: InboxAnswer): string {
  if (!answer.ok) return answer.code;
  return answer.state.refusal?.code ?? "accepted";
}

test("a Partial sent in pieces resumes where the last one stopped", async () => {
  const { inbox, delivered } = setup();
  const announcement = announce(bytes);
  assert.deepEqual(await inbox.open(announcement), { ok: true, state: { receivedBytes: 0 } });
  const first = inbox.sender(announcement.identity);
  assert.deepEqual(await first?.write(0, bytes.subarray(0, 10)), {
    ok: true,
    state: { receivedBytes: 10 },
  });
  // The link breaks; the gateway asks again and goes on.
  assert.deepEqual(stateOf(await inbox.open(announcement)), { receivedBytes: 10 });
  const state = stateOf(await send(inbox, announcement));
  assert.equal(state.receipt?.outcome, "merged");
  assert.equal(delivered.length, 1);
  assert.deepEqual(inbox.load(), { uploads: 0, bytes: 0 });
});

test("the same identity and digest again gets the same receipt, without its bytes", async () => {
  const { inbox, delivered } = setup();
  const first = stateOf(await send(inbox, announce(bytes)));
  assert.deepEqual(stateOf(await inbox.open(announce(bytes))), first);
  assert.equal(delivered.length, 1);
});

test("the same identity with another digest is a conflict, before and after its receipt", async () => {
  const { inbox } = setup();
  const other = announce(bytes, { digest: "0".repeat(64) });
  await inbox.open(announce(bytes));
  assert.equal(codeOf(await inbox.open(other)), "partial-conflict");
  await send(inbox, announce(bytes));
  assert.equal(codeOf(await inbox.open(other)), "partial-conflict");
});

test("bytes that do not have the announced digest are forgotten, and may be sent again", async () => {
  const { inbox, delivered } = setup();
  const wrong = bytes.slice();
  wrong[20] = (wrong[20] ?? 0) ^ 1;
  assert.equal(codeOf(await send(inbox, announce(bytes), wrong)), "digest-mismatch");
  assert.deepEqual(stateOf(await inbox.open(announce(bytes))), { receivedBytes: 0 });
  assert.equal(codeOf(await send(inbox, announce(bytes))), "accepted");
  assert.equal(delivered.length, 1);
});

test("what is no Partial is refused for good, with the same answer again", async () => {
  const { inbox, refusals } = setup();
  const junk = Uint8Array.from({ length: 100 }, (_, i) => i);
  assert.equal(codeOf(await send(inbox, announce(junk), junk)), "partial-malformed");
  assert.equal(codeOf(await inbox.open(announce(junk))), "partial-malformed");
  assert.equal(refusals.length, 1);
  assert.deepEqual(inbox.load(), { uploads: 0, bytes: 0 });
});

test("a Partial made for another round than announced is refused", async () => {
  const { inbox } = setup();
  assert.equal(codeOf(await send(inbox, announce(bytes, { round: "s.2" }))), "base-mismatch");
});

test("a Partial of several rounds is announced for the newest, and is of one session", async () => {
  const { inbox } = setup();
  const several = encoded(sumOf(3, ["s.1", "s.10"]));
  assert.equal(
    codeOf(await send(inbox, announce(several, { round: "s.10" }), several)),
    "accepted",
  );
  const identity = { gateway: "g", incarnation: "i", sequence: 2 };
  assert.equal(
    codeOf(await send(inbox, announce(several, { identity, round: "s.1" }), several)),
    "base-mismatch",
  );
});

test("an unknown round, no bytes and too many bytes are refused before any is sent", async () => {
  const { inbox } = setup();
  assert.equal(codeOf(await inbox.open(announce(bytes, { round: "t.1" }))), "unknown-round");
  assert.equal(codeOf(await inbox.open(announce(bytes, { totalBytes: 0 }))), "partial-malformed");
  assert.equal(codeOf(await inbox.open(announce(bytes, { totalBytes: 2 ** 40 }))), "too-large");
  assert.deepEqual(inbox.load(), { uploads: 0, bytes: 0 });
});

test("where there is no room nothing is sent, and the Partial may come again", async () => {
  const { inbox, destination } = setup();
  destination.hasRoom = (size) => size < bytes.length;
  assert.equal(codeOf(await inbox.open(announce(bytes))), "storage-full");
  destination.hasRoom = (size) => size <= bytes.length;
  assert.equal(codeOf(await send(inbox, announce(bytes))), "accepted");
});

test("bytes out of order or past the announced end change nothing", async () => {
  const { inbox } = setup();
  const announcement = announce(bytes);
  await inbox.open(announcement);
  const sender = inbox.sender(announcement.identity);
  assert.ok(sender);
  assert.equal(codeOf(await sender.write(5, bytes.subarray(5, 9))), "chunk-out-of-order");
  const longer = new Uint8Array(bytes.length + 1);
  assert.equal(codeOf(await sender.write(0, longer)), "bad-offset");
  assert.deepEqual(stateOf(await inbox.open(announcement)), { receivedBytes: 0 });
});

test("a newer stream takes an upload over; the older one writes no more", async () => {
  const { inbox } = setup();
  const announcement = announce(bytes);
  await inbox.open(announcement);
  const older = inbox.sender(announcement.identity);
  const newer = inbox.sender(announcement.identity);
  assert.equal(codeOf((await older?.write(0, bytes)) ?? refuse("busy", "")), "id-in-use");
  assert.equal(codeOf((await newer?.write(0, bytes)) ?? refuse("busy", "")), "accepted");
  assert.equal(inbox.sender(announcement.identity), undefined, "nothing is open any more");
});

test("asking while the last bytes settle waits for the receipt, and delivers once", async () => {
  let settle: () => void = () => {};
  const settling = new Promise<void>((resolve) => {
    settle = resolve;
  });
  const { inbox, delivered } = setup(async () => {
    await settling;
    return merged();
  });
  const announcement = announce(bytes);
  await inbox.open(announcement);
  const written = inbox.sender(announcement.identity)?.write(0, bytes);
  const asked = inbox.open(announcement);
  settle();
  assert.equal(stateOf(await asked).receipt?.outcome, "merged");
  assert.equal(codeOf((await written) ?? refuse("busy", "")), "accepted");
  assert.equal(delivered.length, 1);
});

test("where the storage fails the bytes stay, and asking again delivers them", async () => {
  let failing = true;
  const { inbox, delivered } = setup(() => {
    if (failing) throw new TributaryError("disk-full", "no room", { retryable: true });
    return merged();
  });
  assert.equal(codeOf(await send(inbox, announce(bytes))), "storage-full");
  failing = false;
  assert.equal(stateOf(await inbox.open(announce(bytes))).receipt?.outcome, "merged");
  assert.equal(delivered.length, 1);
});

test("a large Partial spools to disk and leaves nothing there", async () => {
  const { inbox, disk, delivered } = setup();
  const sum = sumOf(limits.spoolInMemoryBytes / 4);
  const large = encoded(sum);
  assert.ok(large.length > limits.spoolInMemoryBytes);
  const announcement = announce(large);
  await inbox.open(announcement);
  const [name] = await disk.list("inbox");
  assert.ok(name);
  assert.equal(codeOf(await send(inbox, announcement, large)), "accepted");
  assert.deepEqual(delivered[0]?.sum, sum.sum);
  assert.deepEqual(await disk.list("inbox"), []);
});

test("uploads are bounded; one that lies idle makes room", async () => {
  const { inbox, clock } = setup();
  const number = (sequence: number) =>
    announce(bytes, { identity: { gateway: "g", incarnation: "i", sequence } });
  for (let i = 0; i < limits.uploads; i++)
    assert.equal(codeOf(await inbox.open(number(i))), "accepted");
  assert.equal(codeOf(await inbox.open(number(limits.uploads))), "busy");
  clock.advance(limits.uploadIdleMs);
  assert.equal(codeOf(await inbox.open(number(limits.uploads))), "accepted");
  assert.equal(inbox.load().uploads, limits.uploads);
  assert.equal(inbox.sender(number(0).identity), undefined, "the oldest made room");
});

test("announced bytes are bounded as a whole", async () => {
  const { inbox } = setup();
  const large = 2 ** 30;
  for (let sequence = 0; sequence < limits.uploadBytes / large; sequence++) {
    const identity = { gateway: "g", incarnation: "i", sequence };
    assert.equal(
      codeOf(await inbox.open(announce(bytes, { identity, totalBytes: large }))),
      "accepted",
    );
  }
  const identity = { gateway: "g", incarnation: "i", sequence: 99 };
  assert.equal(codeOf(await inbox.open(announce(bytes, { identity }))), "busy");
});
