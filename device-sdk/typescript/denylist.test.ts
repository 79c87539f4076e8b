import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { signDenylist } from "@tributary/proto/identity/denylist.js";
import { makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import { createListAssembly, listParts } from "@tributary/proto/wire/list-parts.js";
import { openCarriedList } from "./denylist.js";
import type { DeviceEvent } from "./events.js";

const fleet = "press-works";

function issuer(kid = "k1") {
  const key = makeKey("EdDSA");
  const jwk = publicJwk(key);
  assert.ok(jwk.kty === "OKP");
  const jwks = { keys: [{ ...jwk, kid, alg: "EdDSA" as const, use: "sig" as const }] };
  const entries = [{ kind: "gateway" as const, name: "g1", before: 100 }];
  const list = (sequence: number) =>
    signDenylist({ fleet, sequence, issuedAt: sequence, entries }, { kid, key });
  return { jwks, list };
}

async function setup(by = issuer(), disk = memoryDisk()) {
  const events: DeviceEvent[] = [];
  const sent: [sequence: number, payload: Uint8Array][] = [];
  const carried = await openCarriedList({
    disk,
    trust: { fleet, jwks: by.jwks },
    publish: async (kind, header, payload) => {
      assert.equal(kind, "denylist");
      sent.push([(header as { sequence: number }).sequence, payload ?? new Uint8Array()]);
    },
    report: (event) => events.push(event),
  });
  const hear = async (sequence: number, text: string) => {
    for (const [part, payload] of listParts({ sequence, text })) carried.received(part, payload);
    await carried.settled();
  };
  const refused = () => events.flatMap((e) => (e.name === "message-refused" ? [e.code] : []));
  return { by, disk, carried, events, sent, hear, refused };
}

test("a device keeps the newest list of its fleet, over a restart as well, and goes by it", async () => {
  const { by, disk, carried, hear, refused } = await setup();
  assert.equal(carried.sequence, 0);
  assert.ok(!carried.isVoid("gateway", "g1", 0));
  await hear(5, await by.list(5));
  await hear(4, await by.list(4));
  await hear(6, await issuer().list(6));
  await hear(7, "no list");
  await hear(8, await by.list(3)); // what it says it is, it is not
  assert.equal(carried.sequence, 5);
  assert.deepEqual(refused(), ["denylist-signature", "denylist-malformed", "denylist-old"]);
  assert.ok(carried.isVoid("gateway", "g1", 99));
  assert.ok(!carried.isVoid("gateway", "g1", 100));
  const again = await setup(by, disk);
  assert.equal(again.carried.sequence, 5);
  const others = await setup(issuer("k2"), disk);
  assert.equal(others.carried.sequence, 0, "nobody it trusts signed it");
});

test("a device brings its list to a gateway that holds an older one, and to no other", async () => {
  const { by, carried, sent, hear } = await setup();
  carried.welcomed(0);
  await hear(5, await by.list(5));
  for (const sequence of [undefined, 5, 6]) carried.welcomed(sequence);
  assert.deepEqual(sent, []);
  carried.welcomed(4);
  assert.equal(sent.length, 1);
  const text = await by.list(5);
  const bytes = text.length;
  assert.equal(
    createListAssembly().add({ sequence: 5, offset: 0, bytes }, sent[0]?.[1] ?? new Uint8Array()),
    text,
  );
});

test("parts that do not follow make no list", () => {
  const text = "x".repeat(600_000);
  const parts = [...listParts({ sequence: 3, text })];
  assert.equal(parts.length, 3);
  const add = (order: readonly number[]) => {
    const assembly = createListAssembly();
    return order.map((at) => assembly.add(...(parts[at] as (typeof parts)[0]))).at(-1);
  };
  assert.equal(add([0, 1, 2]), text);
  assert.equal(add([0, 1, 0, 1, 2]), text, "it begins anew");
  assert.equal(add([1, 0, 1, 2]), text);
  for (const order of [[0, 2], [0, 2, 1], [1, 2], [0, 0, 2], [2]])
    assert.equal(add(order), undefined);
  const assembly = createListAssembly();
  const [first, second] = parts.map(([part]) => part);
  assert.ok(first !== undefined && second !== undefined);
  assembly.add(first, new Uint8Array(first.bytes - 1));
  const other = { ...second, sequence: 4, offset: first.bytes - 1 };
  assert.equal(assembly.add(other, new Uint8Array(1)), undefined, "of another list");
});
