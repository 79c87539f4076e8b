import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { downSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import { limits } from "./limits.js";
import { createParts } from "./parts.js";
import type { Replies } from "./replies.js";
import { sampleModel } from "./testing/sample.js";
import { until } from "./testing/wait.js";

const manifest = makeManifest("s.0", sampleModel, sha256, 1024);
const { model, digest } = manifest;

function bench() {
  const sent: { device: string; offset: number; payload: Uint8Array; taken: () => void }[] = [];
  const refused: string[] = [];
  const here: { bytes: number | undefined; reads: number } = { bytes: manifest.bytes, reads: 0 };
  const clock = createManualClock();
  const replies = {
    refuse: (device: string, _: unknown, { code }: { code: string }) =>
      refused.push(`${device} ${code}`),
  } as unknown as Replies;
  const parts = createParts({
    models: {
      available: (of) =>
        of === digest && here.bytes !== undefined ? { bytes: here.bytes, manifest } : undefined,
      async read(_, offset, length) {
        here.reads++;
        return sampleModel.subarray(offset, offset + length);
      },
    },
    recover: () => false,
    link: {
      send(device, _, bytes, taken = () => {}) {
        const part = decodeEnvelope(downSchemas.part, bytes, wire.downHeaderBytes);
        assert.ok(part.ok);
        sent.push({ device, offset: part.header.offset, payload: part.payload, taken });
      },
    },
    replies,
    clock,
  });
  const fetch = (device: string, offset = 0) =>
    parts.fetch(device, { model, digest, offset, length: 1024 });
  return { parts, sent, refused, here, clock, fetch };
}

describe("model parts", () => {
  it("are read and encoded once for all devices", async () => {
    const { sent, here, fetch } = bench();
    for (let i = 0; i < 10; i++) fetch(`d${i}`, 1024);
    await until("all are sent", () => sent.length === 10);
    assert.equal(here.reads, 1);
    assert.ok(sent.every((p) => p.offset === 1024 && p.payload.length === 1024));
  });

  it("go out a few at a time, each when a socket has taken one", async () => {
    const { sent, fetch } = bench();
    for (let i = 0; i < limits.partSends + 5; i++) fetch(`d${i}`);
    await until("the first are sent", () => sent.length === limits.partSends);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(sent.length, limits.partSends);
    sent[0]?.taken();
    await until("one more is sent", () => sent.length === limits.partSends + 1);
  });

  it("wait for a download, and are sent as soon as it has got there", async () => {
    const { parts, sent, here, refused, fetch } = bench();
    here.bytes = 1024;
    fetch("a", 1024);
    parts.progressed(digest);
    assert.equal(sent.length, 0);
    here.bytes = 2048;
    parts.progressed(digest);
    await until("it is sent", () => sent.length === 1);
    assert.deepEqual(refused, []);
  });

  it("that do not arrive in time are refused, as are those of a model that is gone", () => {
    const { parts, here, refused, clock, fetch } = bench();
    here.bytes = 0;
    fetch("a");
    clock.advance(limits.modelWaitMs);
    fetch("b");
    here.bytes = undefined;
    parts.progressed(digest);
    fetch("c");
    assert.deepEqual(refused, ["a unknown-model", "b unknown-model", "c unknown-model"]);
  });

  it("bound what one device may ask for, until it is gone", () => {
    const { parts, here, refused, fetch } = bench();
    here.bytes = 0;
    for (let i = 0; i <= limits.fetchesPerDevice; i++) fetch("a");
    assert.deepEqual(refused, ["a busy"]);
    parts.disconnected("a");
    fetch("a");
    assert.equal(refused.length, 1);
  });

  it("begin at chunks of the file only", () => {
    const { refused, fetch } = bench();
    fetch("a", 100);
    fetch("a", 5 * 1024);
    assert.deepEqual(refused, ["a bad-offset", "a bad-offset"]);
  });
});
