import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { systemClock } from "@tributary/proto/host/clock.js";
import { limits } from "./limits.js";
import { closeBrokers, closed, openBroker, some, up } from "./testing/raw-broker.js";
import { publishPacket, type RawMqtt, subscribePacket } from "./testing/raw-mqtt.js";
import { until } from "./testing/wait.js";

afterEach(closeBrokers);

describe("connections of one address", () => {
  it("past their bounds are closed unread, and welcome again when others have gone", async () => {
    const bounds = { ...limits.addresses, connections: 4, handshakes: 2 };
    const { raw, device, here, refused } = await openBroker({ bounds: { addresses: bounds } });
    const silent = [await raw(), await raw()];
    const third = await raw();
    await closed(third);
    assert.deepEqual(refused.splice(0), ["address-handshakes"]);
    for (const [i, stranger] of silent.entries()) assert.equal(await stranger.connect(`d-${i}`), 0);
    const more = [await device("d-2"), await device("d-3")];
    await closed(await raw());
    assert.deepEqual(refused.splice(0), ["address-connections"]);
    more[0]?.close();
    await until("its end is noticed", () => !here.has("d-2"));
    await device("d-4");
    await closed(await raw());
  });

  it("come at a bounded rate", async () => {
    const bounds = { ...limits.addresses, rate: { perSecond: 1, burst: 3 } };
    const { raw, device, clock, refused } = await openBroker({ bounds: { addresses: bounds } });
    for (const name of ["d-1", "d-2", "d-3"]) (await device(name)).close();
    await closed(await raw());
    assert.deepEqual(refused, ["address-rate"]);
    clock.advance(1_000);
    await device("d-4");
    await closed(await raw());
  });
});

describe("what comes of one device", () => {
  const allowance = {
    ...limits.allowance,
    packets: { perSecond: 10, burst: 200 },
    greetingPrice: 20,
    refusals: { perSecond: 1, burst: 20 },
  };
  const FLOOD = 1_000;

  it("waits in its own connection once its packets are spent, and is not lost", async () => {
    const { device, clock, of, served } = await openBroker({ bounds: { allowance } });
    const noisy = await device("noisy");
    const numbers = Array.from({ length: FLOOD }, (_, i) => i);
    noisy.send(...numbers.map((i) => publishPacket(up("noisy"), Buffer.alloc(i))));
    const first = allowance.packets.burst - allowance.greetingPrice;
    await until("its burst is taken", () => of("noisy").length === first);
    const other = await device("quiet");
    await served(other, "quiet");
    assert.equal(of("noisy").length, first, "not one more");
    clock.advance(1_000);
    await until("ten more a second", () => of("noisy").length === first + 10);
    await served(other, "quiet");
    assert.equal(of("noisy").length, first + 10);
    for (let seconds = 0; of("noisy").length < FLOOD; seconds++) {
      assert.ok(seconds < FLOOD, "all comes in time");
      clock.advance(1_000);
      await served(other, "quiet", 1).catch(() => {});
      clock.advance(1_000);
    }
    assert.deepEqual(
      of("noisy").map(({ bytes }) => bytes),
      numbers,
    );
    assert.ok(!noisy.closed);
  });

  it("costs more where it says hello", async () => {
    const { device, of, served } = await openBroker({ bounds: { allowance } });
    const noisy = await device("noisy");
    const hello = publishPacket(up("noisy", "hello"), some);
    noisy.send(...Array.from({ length: FLOOD }, () => hello));
    const other = await device("quiet");
    await served(other, "quiet");
    const turn = allowance.packetsPerTurn;
    assert.ok(of("noisy").length <= turn, `${of("noisy").length} of them in one turn`);
    noisy.close();
  });

  it("is what its bytes allow, in both ways together", async () => {
    const bytes = { perSecond: 1_000, burst: 100_000 };
    const bounds = { allowance: { ...limits.allowance, bytes } };
    const { device, clock, link, of, served } = await openBroker({ bounds });
    const noisy = await device("noisy");
    const other = await device("quiet");
    const large = publishPacket(up("noisy"), Buffer.alloc(30_000));
    noisy.send(...Array.from({ length: 20 }, () => large));
    await until("the first are taken", () => of("noisy").length > 2);
    const reader = await device("reader");
    link.send("reader", "part", Buffer.alloc(150_000));
    reader.send(publishPacket(up("reader"), some));
    await served(other, "quiet");
    // What is read at a time may overdraw it once.
    const taken = of("noisy").length;
    assert.ok(taken < 10, `${taken} taken`);
    assert.equal(of("reader").length, 0, "what it was sent has to be made up for, too");
    clock.advance(51_000);
    await until("it is", () => of("reader").length === 1);
    await until("more is taken", () => of("noisy").length > taken);
    assert.ok(!noisy.closed);
  });

  it("ends with too many refusals; then it is not let in for a while, and others are", async () => {
    const { device, raw, clock, here, refused, of, served } = await openBroker({
      bounds: { allowance },
    });
    const other = await device("quiet");
    const noisy = await device("noisy");
    noisy.send(...Array.from({ length: 100 }, () => publishPacket(up("noisy", "gossip"), some)));
    await closed(noisy);
    assert.ok(of("noisy").length <= allowance.refusals.burst + 1, `${of("noisy").length} handled`);
    assert.equal(refused.filter((reason) => reason === "refusals noisy").length, 1);
    await until("its end is noticed", () => !here.has("noisy"));
    const again = await raw();
    assert.equal(await again.connect("noisy"), 3);
    await closed(again);
    assert.ok(refused.includes("allowance noisy"));
    await served(other, "quiet", 5);
    clock.advance(10_000);
    await device("noisy");
  });

  it("ends with too many filters refused, in however few packets", async () => {
    const { device, refused } = await openBroker({ bounds: { allowance } });
    const noisy = await device("noisy");
    noisy.send(
      subscribePacket(
        1,
        Array.from({ length: 500 }, (_, i) => `x/${i}`),
      ),
    );
    await closed(noisy);
    assert.ok(refused.includes("refusals noisy"));
  });

  it("does not come again and again under its name at any speed", async () => {
    const { raw, refused } = await openBroker({ bounds: { allowance } });
    const codes: number[] = [];
    for (let i = 0; i < 15; i++) {
      const next = await raw();
      codes.push(await next.connect("noisy"));
      next.close();
    }
    const most = allowance.packets.burst / allowance.greetingPrice;
    assert.deepEqual(codes.slice(0, most + 1), new Array<number>(most + 1).fill(0));
    assert.deepEqual(new Set(codes.slice(most + 1)), new Set([3]));
    assert.ok(refused.every((reason) => reason === "allowance noisy"));
  });
});

describe("a device that floods", () => {
  /** Connections write all that they can, for as long as the test goes on. */
  function flood(noisy: RawMqtt, bytes: Uint8Array): { readonly ended: Promise<void> } {
    const batch = Buffer.concat(Array.from({ length: 200 }, () => bytes));
    const write = async (): Promise<void> => {
      while (!noisy.closed) {
        noisy.send(batch);
        await noisy.drained();
        await new Promise((resolve) => setImmediate(resolve));
      }
    };
    return { ended: write() };
  }

  it("has its turn and no more, while another device is served", async () => {
    const clock = systemClock();
    let turn = 0;
    let most = 0;
    let of = 0;
    const bounds = { allowance: { ...limits.allowance, packets: { perSecond: 1e9, burst: 1e9 } } };
    const { device, served } = await openBroker({
      clock,
      bounds,
      handlers: {
        onMessage(name) {
          if (name !== "noisy") return;
          of++;
          most = Math.max(most, ++turn);
        },
        onConnected() {},
        onDisconnected() {},
        onRefused() {},
      },
    });
    let watching = true;
    const watch = (): void => {
      turn = 0;
      if (watching) setImmediate(watch);
    };
    watch();
    try {
      const noisy = await device("noisy");
      const other = await device("quiet");
      const { ended } = flood(noisy, publishPacket(up("noisy"), some));
      await until("it floods", () => of > 2_000);
      await served(other, "quiet", 60);
      noisy.close();
      await ended;
    } finally {
      watching = false;
    }
    assert.ok(most <= limits.allowance.packetsPerTurn, `${most} packets in one turn`);
  });

  it("is held to its rate, however much it sends and however long it takes", async () => {
    const clock = systemClock();
    const startedMs = clock.monotonicMs();
    const { device, served, of } = await openBroker({ clock });
    const noisy = await device("noisy");
    const other = await device("quiet");
    const { ended } = flood(noisy, publishPacket(up("noisy"), some));
    const { perSecond, burst } = limits.allowance.packets;
    await until("its burst is spent", () => of("noisy").length >= burst / 2);
    await served(other, "quiet", 100);
    const seconds = (clock.monotonicMs() - startedMs) / 1_000;
    const taken = of("noisy").length;
    noisy.close();
    await ended;
    assert.ok(taken <= burst + seconds * perSecond, `${taken} in ${seconds} s`);
  });
});
