import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { type AddressBounds, createAddresses, type Visit } from "./addresses.js";

const roomy: AddressBounds = {
  connections: 1_000,
  handshakes: 1_000,
  rate: { perSecond: 1_000, burst: 1_000 },
  idle: 100,
};

function open(bounds: Partial<AddressBounds>) {
  const clock = createManualClock();
  const addresses = createAddresses({ ...roomy, ...bounds }, clock);
  const enter = (address: string): Visit => {
    const visit = addresses.enter(address);
    if (typeof visit === "string") throw new Error(visit);
    return visit;
  };
  return { clock, addresses, enter };
}

describe("connections of one address", () => {
  it("are bounded, and leave room for every other address", () => {
    const { addresses, enter } = open({ connections: 3 });
    const visits = [1, 2, 3].map(() => enter("10.0.0.1"));
    assert.equal(addresses.enter("10.0.0.1"), "address-connections");
    enter("10.0.0.2");
    const [first] = visits;
    first?.left();
    first?.left();
    enter("10.0.0.1");
    assert.equal(
      addresses.enter("10.0.0.1"),
      "address-connections",
      "one left, however often told",
    );
  });

  it("are bounded more tightly until their CONNECT is accepted", () => {
    const { addresses, enter } = open({ handshakes: 2 });
    const first = enter("10.0.0.1");
    const second = enter("10.0.0.1");
    assert.equal(addresses.enter("10.0.0.1"), "address-handshakes");
    enter("10.0.0.2");
    first.welcomed();
    first.welcomed();
    enter("10.0.0.1");
    assert.equal(addresses.enter("10.0.0.1"), "address-handshakes");
    second.left();
    enter("10.0.0.1");
    first.left();
    assert.equal(addresses.enter("10.0.0.1"), "address-handshakes", "it was none any more");
  });

  it("come at a bounded rate, whether those before them are still there or not", () => {
    const { clock, addresses, enter } = open({ rate: { perSecond: 2, burst: 5 } });
    for (let i = 0; i < 5; i++) enter("10.0.0.1").left();
    assert.equal(addresses.enter("10.0.0.1"), "address-rate");
    enter("10.0.0.2");
    clock.advance(499);
    assert.equal(addresses.enter("10.0.0.1"), "address-rate");
    clock.advance(1);
    enter("10.0.0.1");
    assert.equal(addresses.enter("10.0.0.1"), "address-rate");
  });

  it("are forgotten in the order in which their address was left, past a bound", () => {
    const { addresses, enter } = open({ rate: { perSecond: 0.001, burst: 1 }, idle: 2 });
    for (const last of [1, 2, 3]) enter(`10.0.0.${last}`).left();
    assert.equal(addresses.enter("10.0.0.2"), "address-rate");
    assert.equal(addresses.enter("10.0.0.3"), "address-rate");
    enter("10.0.0.1");
  });
});

describe("an address", () => {
  const same = (a: string, b: string): boolean => {
    const { addresses, enter } = open({ connections: 1 });
    enter(a);
    return addresses.enter(b) === "address-connections";
  };

  it("is the same as IPv4 and as IPv4 written in IPv6", () => {
    assert.ok(same("192.0.2.1", "::ffff:192.0.2.1"));
    assert.ok(!same("::ffff:192.0.2.1", "::ffff:192.0.2.2"));
  });

  it("is a /64 in IPv6, however it is written", () => {
    assert.ok(same("2001:db8:0:1::1", "2001:db8::1:ffff:ffff:ffff:ffff"));
    assert.ok(same("2001:0db8:0000:0001::1", "2001:db8:0:1:2:3:4:5"));
    assert.ok(same("fe80::1%eth0", "fe80::2%eth0"));
    assert.ok(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
    assert.ok(same("::1", "::2"));
  });
});
