import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { createPacketGate } from "./packet-gate.js";

const bounds = { publishBytes: 1_000, controlBytes: 100 };
const PUBLISH = 0x30;
const CONNECT = 0x10;

function header(type: number, length: number): number[] {
  const bytes = [type];
  let rest = length;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    bytes.push(rest > 0 ? low + 128 : low);
  } while (rest > 0);
  return bytes;
}

function packet(type: number, length: number): Uint8Array {
  return Uint8Array.from([...header(type, length), ...new Array<number>(length).fill(0xff)]);
}

describe("the packet gate", () => {
  it("lets packets up to their bound through, whatever the pieces they come in", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom(PUBLISH, CONNECT), fc.nat(98)), { maxLength: 20 }),
        fc.integer({ min: 1, max: 50 }),
        (packets, size) => {
          const stream = Buffer.concat(packets.map(([type, length]) => packet(type, length)));
          const passes = createPacketGate(bounds);
          for (let at = 0; at < stream.length; at += size) {
            assert.ok(passes(stream.subarray(at, at + size)));
          }
        },
      ),
    );
  });

  it("counts the fixed header in the bound", () => {
    assert.ok(createPacketGate(bounds)(packet(PUBLISH, 997)));
    assert.ok(!createPacketGate(bounds)(packet(PUBLISH, 998)));
    assert.ok(createPacketGate(bounds)(packet(CONNECT, 98)));
    assert.ok(!createPacketGate(bounds)(packet(CONNECT, 99)));
  });

  it("shuts at the announcement, before the bytes, and stays shut", () => {
    const passes = createPacketGate(bounds);
    assert.ok(passes(packet(PUBLISH, 10)));
    assert.ok(!passes(Uint8Array.from(header(CONNECT, 266_000_000))));
    assert.ok(!passes(packet(PUBLISH, 10)));
  });

  it("shuts at a length of more than four bytes", () => {
    assert.ok(!createPacketGate(bounds)(Uint8Array.from([PUBLISH, 0x80, 0x80, 0x80, 0x80, 0])));
  });
});
