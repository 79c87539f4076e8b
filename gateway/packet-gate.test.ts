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

/** A CONNECT of no length that opens the way for what a test is about. */
const hello = Uint8Array.from(header(CONNECT, 10).concat(new Array<number>(10).fill(0)));
const ALL = Number.POSITIVE_INFINITY;

function openGate() {
  const pass = createPacketGate(bounds);
  assert.deepEqual(pass(hello, 1), { bytes: hello.length, packets: 1 });
  return pass;
}

const passes = (bytes: Uint8Array): boolean => openGate()(bytes, ALL)?.bytes === bytes.length;

describe("the packet gate", () => {
  it("lets packets up to their bound through, whatever the pieces they come in", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom(PUBLISH, CONNECT), fc.nat(98)), { maxLength: 20 }),
        fc.integer({ min: 1, max: 50 }),
        (packets, size) => {
          const stream = Buffer.concat(packets.map(([type, length]) => packet(type, length)));
          const pass = openGate();
          let counted = 0;
          for (let at = 0; at < stream.length; at += size) {
            const piece = stream.subarray(at, at + size);
            const passage = pass(piece, ALL);
            assert.equal(passage?.bytes, piece.length);
            counted += passage.packets;
          }
          assert.equal(counted, packets.length);
        },
      ),
    );
  });

  it("stops before the packet that may not pass yet, and goes on there", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(60), { minLength: 1, maxLength: 20 }),
        fc.array(fc.nat(3), { minLength: 1, maxLength: 10 }),
        fc.integer({ min: 1, max: 90 }),
        (lengths, allowed, size) => {
          const packets = lengths.map((length) => packet(PUBLISH, length));
          const stream = Buffer.concat(packets);
          const pass = openGate();
          let at = 0;
          let begun = 0;
          for (let turn = 0; at < stream.length; turn++) {
            const most = 1 + (allowed[turn % allowed.length] ?? 0);
            const passage = pass(stream.subarray(at, at + size), most);
            assert.ok(passage && passage.packets <= most);
            at += passage.bytes;
            begun += passage.packets;
            const whole = Buffer.concat(packets.slice(0, begun)).length;
            assert.ok(at <= whole, "no byte of a packet that was not counted");
          }
          assert.equal(begun, packets.length);
        },
      ),
    );
  });

  it("lets the rest of a packet through when no further one may begin", () => {
    const pass = openGate();
    const [one, two] = [packet(PUBLISH, 50), packet(PUBLISH, 5)];
    assert.deepEqual(pass(one.subarray(0, 20), 1), { bytes: 20, packets: 1 });
    const rest = Buffer.concat([one.subarray(20), two]);
    assert.deepEqual(pass(rest, 0), { bytes: one.length - 20, packets: 0 });
    assert.deepEqual(pass(two, 0), { bytes: 0, packets: 0 });
    assert.deepEqual(pass(two, 1), { bytes: two.length, packets: 1 });
  });

  it("counts the fixed header in the bound", () => {
    assert.ok(passes(packet(PUBLISH, 997)));
    assert.ok(!passes(packet(PUBLISH, 998)));
    assert.ok(passes(packet(CONNECT, 98)));
    assert.ok(!passes(packet(CONNECT, 99)));
  });

  it("shuts at the announcement, before the bytes, and stays shut", () => {
    const pass = openGate();
    assert.ok(pass(packet(PUBLISH, 10), ALL));
    assert.equal(pass(Uint8Array.from(header(CONNECT, 266_000_000)), ALL), undefined);
    assert.equal(pass(packet(PUBLISH, 10), ALL), undefined);
  });

  it("shuts at a length of more than four bytes", () => {
    assert.ok(!passes(Uint8Array.from([PUBLISH, 0x80, 0x80, 0x80, 0x80, 0])));
  });

  it("shuts at a first packet that is no CONNECT", () => {
    for (const type of [0x00, 0x20, PUBLISH, 0x82, 0xc0, 0xf0]) {
      assert.equal(createPacketGate(bounds)(packet(type, 10), 1), undefined, type.toString(16));
    }
    assert.equal(createPacketGate(bounds)(Buffer.from("GET / HTTP/1.1\r\n"), 1), undefined);
  });
});
