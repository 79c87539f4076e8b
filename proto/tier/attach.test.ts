import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import type { AttachRequest, AttachResponse, Hello } from "../gen/tributary/v1/reducer.js";
import { createManualClock } from "../host/clock.js";
import type { Refusal } from "../wire/verdict.js";
import { createAttachments, type Members } from "./attach.js";
import type { LinkEvent } from "./events.js";
import { limits } from "./limits.js";
import type { Peer } from "./peer.js";
import type { TrustKeeper } from "./trust.js";

type Up = NonNullable<AttachRequest["message"]>;

/** A control stream without a network: what was written, and how it was ended. */
class FakeCall extends EventEmitter {
  shownBy: Peer | undefined;
  readonly written: AttachResponse[] = [];
  flowing = true;
  ended = false;

  write(message: AttachResponse): boolean {
    this.written.push(message);
    return this.flowing;
  }

  end(): void {
    this.ended = true;
  }

  fail(refusal: Refusal): void {
    this.emit("error", new Error(`${refusal.code}: ${refusal.message}`));
  }

  /** What the gateway says. */
  say(message: Up): void {
    this.emit("data", { message });
  }
}

function setup(above: () => readonly string[] = () => [], trust?: TrustKeeper) {
  const clock = createManualClock();
  const attached = new Set<string>();
  const gateways = {
    attach: ({ gateway }: { gateway: string }) => attached.add(gateway) !== undefined,
    detach: (gateway: string) => void attached.delete(gateway),
    seen() {},
    heartbeat() {},
    attached: (gateway: string) => attached.has(gateway),
  };
  const devices = { change: () => ({ ok: true, dropped: 0 }) as const };
  const events: LinkEvent[] = [];
  const heard: string[] = [];
  const members: Members = {
    fleetChanged: () => heard.push("fleet"),
    attached: async (gateway) => {
      heard.push(`attached ${gateway}`);
      return [];
    },
    detached: (gateway) => heard.push(`detached ${gateway}`),
    progressed: () => {},
    planRefused: () => {},
    telemetry: async () => undefined,
  };
  const attachments = createAttachments({
    clock,
    gateways,
    devices,
    events: (event) => events.push(event),
    upstream: "cloud",
    above,
    nowMs: () => 0,
    trust: () => trust,
    heartbeatIntervalMs: 1_000,
    heartbeatMissedMs: 3_000,
  });
  const accept = () => {
    const call = new FakeCall();
    let error: Error | undefined;
    call.on("error", (cause) => {
      error = cause;
    });
    attachments.accept(call, members);
    return { call, error: () => error?.message };
  };
  return { clock, gateways, attachments, events, heard, accept };
}

const hello: Up = {
  $case: "hello",
  value: {
    protocolVersion: 1,
    gateway: "g1",
    site: "plant",
    incarnation: "one",
    softwareVersion: "1",
    rounds: [],
    below: [],
    nowMs: 0n,
  },
};
const progress: Up = {
  $case: "roundProgress",
  value: { round: "s.1", offered: 0, folded: 0, declined: 0, sealed: false },
};

test("a gateway that goes silent is detached; one that speaks is not", () => {
  const { clock, gateways, heard, accept } = setup();
  const { call, error } = accept();
  call.say(hello);
  for (let i = 0; i < 10; i++) {
    clock.advance(1_000);
    call.say(progress);
  }
  assert.equal(gateways.attached("g1"), true);
  for (let i = 0; i < 5; i++) clock.advance(1_000);
  assert.equal(gateways.attached("g1"), false);
  assert.match(error() ?? "", /no heartbeat/);
  assert.ok(heard.includes("detached g1"));
});

test("a pause of the cloud's own is not held against its gateways", () => {
  const { clock, gateways, accept } = setup();
  const { call } = accept();
  call.say(hello);
  // The process sleeps: the timer fires late, before what came meanwhile is read.
  const { monotonicMs } = clock;
  let sleptMs = 0;
  clock.monotonicMs = () => monotonicMs() + sleptMs;
  sleptMs = 60_000;
  clock.advance(1_000);
  assert.equal(gateways.attached("g1"), true);
  call.say(progress);
  clock.advance(1_000);
  assert.equal(gateways.attached("g1"), true);
});

test("a stream without a Hello is ended in time", () => {
  const { clock, accept } = setup();
  const { error } = accept();
  clock.advance(limits.helloTimeoutMs - 1);
  assert.equal(error(), undefined);
  clock.advance(1);
  assert.match(error() ?? "", /malformed/);
});

test("messages to a gateway that does not read wait, up to a bound, in order", () => {
  const { attachments, accept } = setup();
  const { call, error } = accept();
  call.say(hello);
  call.flowing = false;
  const closed = (n: number): AttachResponse => ({
    message: { $case: "roundClosed", value: { round: `s.${n}`, outcome: "committed" } },
  });
  const before = call.written.length;
  for (let n = 0; n <= 10; n++) attachments.links.send("g1", closed(n));
  assert.equal(call.written.length, before + 1, "one was taken before the stream asked to wait");
  call.flowing = true;
  call.emit("drain");
  assert.deepEqual(
    call.written.slice(before),
    Array.from({ length: 11 }, (_, n) => closed(n)),
  );
  call.flowing = false;
  for (let n = 0; n <= limits.attachBacklog; n++) attachments.links.send("g1", closed(n));
  assert.equal(error(), undefined);
  attachments.links.send("g1", closed(0));
  assert.match(error() ?? "", /reads too slowly/);
});

test("a link that breaks detaches its gateway once, whatever the stream reports", () => {
  const { heard, events, accept } = setup();
  const { call } = accept();
  call.say(hello);
  call.emit("cancelled");
  call.emit("error", new Error("reset"));
  call.emit("close");
  assert.equal(heard.filter((what) => what === "detached g1").length, 1);
  assert.equal(events.filter(({ name }) => name === "gateway-detached").length, 1);
});

test("what a replaced stream still says is not heard", () => {
  const { gateways, accept } = setup();
  const older = accept();
  older.call.say(hello);
  const newer = accept();
  newer.call.say(hello);
  older.call.emit("close");
  older.call.say(progress);
  assert.equal(gateways.attached("g1"), true);
});

const helloOf = (changes: object): Up => ({
  $case: "hello",
  value: { ...(hello as { value: Hello }).value, ...changes },
});

test("a gateway that would be above itself is refused", () => {
  const { attachments, accept } = setup(() => ["top", "root"]);
  for (const loop of [
    { gateway: "cloud" }, // this side itself
    { gateway: "top" }, // above this side
    { gateway: "g1", below: ["g2", "cloud"] }, // it has this side below it
  ]) {
    const { call, error } = accept();
    call.say(helloOf(loop));
    assert.match(error() ?? "", /^gateway-loop: /);
  }
  const { call, error } = accept();
  call.say(helloOf({ below: ["g2"] }));
  assert.equal(error(), undefined);
  attachments.close();
});

test("the path to the root is told again when it changes, which ends a loop that it closes", () => {
  let above: string[] = [];
  const { attachments, accept } = setup(() => above);
  const [g1, g2] = [accept(), accept()];
  g1.call.say(helloOf({ gateway: "g1" }));
  g2.call.say(helloOf({ gateway: "g2", below: ["g3"] }));
  above = ["g1", "root"];
  attachments.pathChanged();
  assert.match(g1.error() ?? "", /^gateway-loop: g1 is above itself: cloud < g1 < root/);
  const paths = g2.call.written.map(({ message }) =>
    message?.$case === "welcome" ? message.value.path : [],
  );
  assert.deepEqual(paths, [["cloud"], ["cloud", "g1", "root"]]);
  attachments.close();
});

test("a gateway that says what it holds is answered; what it carries is handed on", () => {
  const heard: string[] = [];
  const trust: TrustKeeper = {
    held(gateway, { denylists }) {
      heard.push(...denylists.map((one) => `${gateway}: ${one.gateway} ${one.sequence}`));
      return { denylistSequence: 9n, denylist: "newer" };
    },
    carried: (gateway, { denylist }) => heard.push(`${gateway} carries ${denylist}`),
  };
  const { accept } = setup(() => [], trust);
  const { call, error } = accept();
  call.say(hello);
  const one = { gateway: "g1", sequence: 7n, ageMs: 5n, cut: 0 };
  call.say({ $case: "trustHeld", value: { denylists: [one, { ...one, gateway: "g2" }] } });
  call.say({ $case: "trust", value: { denylistSequence: 10n, denylist: "found" } });
  assert.deepEqual(heard, ["g1: g1 7", "g1: g2 7", "g1 carries found"]);
  assert.deepEqual(call.written.at(-1), {
    message: { $case: "trust", value: { denylistSequence: 9n, denylist: "newer" } },
  });
  assert.equal(error(), undefined);
  call.say({ $case: "trustHeld", value: { denylists: [{ ...one, gateway: "__proto__" }] } });
  assert.match(error() ?? "", /malformed/);
});

test("of the lists that wait for a gateway that does not read, the newest is sent", () => {
  const { attachments, accept } = setup();
  const { call } = accept();
  call.say(hello);
  const before = call.written.length;
  call.flowing = false;
  const list = (n: number): AttachResponse => ({
    message: { $case: "trust", value: { denylistSequence: BigInt(n), denylist: "a list" } },
  });
  for (let n = 0; n <= 3 * limits.attachBacklog; n++) attachments.links.broadcast(list(n));
  call.flowing = true;
  call.emit("drain");
  assert.deepEqual(call.written.slice(before), [list(0), list(3 * limits.attachBacklog)]);
});

test("a list that voids what a gateway showed ends its stream, and no other's", () => {
  const { gateways, attachments, accept } = setup();
  const [thief, anew, plain] = [accept(), accept(), accept()];
  thief.call.shownBy = { name: "thief", site: "plant", from: 99 };
  thief.call.say(helloOf({ gateway: "thief" }));
  anew.call.shownBy = { name: "anew", site: "plant", from: 100 };
  anew.call.say(helloOf({ gateway: "anew" }));
  plain.call.say(helloOf({ gateway: "plain" }));
  const isVoid = (kind: string, _name: string, from: number) => kind === "gateway" && from < 100;
  assert.equal(attachments.shut(isVoid), 1);
  assert.match(thief.error() ?? "", /^identity-revoked: thief/);
  assert.deepEqual(
    ["thief", "anew", "plain"].map((name) => gateways.attached(name)),
    [false, true, true],
  );
});

test("closing ends every stream and leaves no timer", () => {
  const { clock, attachments, accept } = setup();
  const { call } = accept();
  call.say(hello);
  attachments.close();
  assert.equal(call.ended, true);
  clock.advance(60_000);
});
