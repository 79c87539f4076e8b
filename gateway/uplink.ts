import type {
  AttachRequest,
  AttachResponse,
  Challenge,
  Device,
  Heartbeat,
  Hello,
  RoundOpened,
  RoundProgress,
  Telemetry,
  TelemetryReceipt,
  Trust,
  TrustHeld,
  Welcome,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { Refusal } from "@tributary/proto/wire/verdict.js";
import type { DeviceChange, DeviceRecord } from "./devices.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import type { AttachCall, Upstream } from "./upstream.js";

export type UplinkHandlers = {
  onAttached(): void;
  /** The upstream's wall clock, in milliseconds since 1970; 0 when it does not know: with each path. */
  onTime(nowMs: number): void;
  /** What is above, the upstream first and the root last: at each attachment, and when it changes. */
  onPath(path: readonly string[]): void;
  /** The link is lost, for now. */
  onDetached(): void;
  /** The upstream is, or would be, below this gateway. The link is given up, and tried again. */
  onLoop(message: string): void;
  onRoundOpened(opened: RoundOpened): void;
  onRoundClosed(round: string, outcome: string): void;
  onSessionOver(session: string): void;
  onPublished(session: string, manifest: Uint8Array, layout: Uint8Array): void;
  onTelemetryReceipt(receipt: TelemetryReceipt): void;
  /** The cloud wants some updates as their devices signed them. */
  onChallenge?(challenge: Challenge): void;
  /** What the upstream holds of the fleet's denylist; what to send it, if anything. */
  onTrust?(trust: Trust): Trust | undefined;
};

/** What the uplink asks for whenever it (re)attaches or beats. */
export type UplinkFacts = {
  hello(): Omit<Hello, "protocolVersion">;
  devices(): Iterable<readonly [string, DeviceRecord]>;
  /** Progress of every round that is open or sealed and not yet closed upstream. */
  progress(): Iterable<RoundProgress>;
  heartbeat(): Omit<Heartbeat, "sequence">;
  /** Undefined where the gateway belongs to no fleet. */
  trustHeld?(): TrustHeld | undefined;
};

/** The control stream to the upstream: always wanted, often away, never waited for. */
export type Uplink = {
  readonly attached: boolean;
  /** Of the newest heartbeat that was answered since the link is up; undefined before. */
  readonly roundTripMs: number | undefined;
  deviceChanged(change: DeviceChange): void;
  progress(progress: RoundProgress): void;
  planRefused(round: string, refusal: Refusal): void;
  /** What the gateway, or one below, holds of the fleet's denylist has changed. */
  trustChanged(): void;
  /** Whether it was handed to the link; its receipt, or the next attachment, follows. */
  telemetry(message: Telemetry): boolean;
  /** Outside its windows the link is given up and not tried; it is open until told otherwise. */
  allow(open: boolean): void;
  start(): void;
  close(): void;
};

export type UplinkOptions = {
  readonly upstream: Upstream;
  readonly facts: UplinkFacts;
  readonly handlers: UplinkHandlers;
  readonly events: GatewayEvents;
  readonly clock: Clock;
  readonly random: Random;
  readonly backoff: { readonly baseMs: number; readonly capMs: number };
};

/**
 * What waits to go up, newest state only: one entry a device and a round, so that a slow link
 * bounds it by what exists, not by how often it changed.
 */
type Pending = {
  devices: Map<string, DeviceRecord | "left">;
  progress: Map<string, RoundProgress>;
  refused: Map<string, Refusal>;
  trust: boolean;
  /** Messages that are cut already: the full device list. */
  ready: AttachRequest[];
};

const emptyPending = (): Pending => ({
  devices: new Map(),
  progress: new Map(),
  refused: new Map(),
  trust: false,
  ready: [],
});

/** A connection attempt and what came of it; `over` once it is given up. */
type Attempt = { readonly call: AttachCall; attached: boolean; over: boolean; heardMs: number };

export function createUplink(options: UplinkOptions): Uplink {
  const { upstream, facts, handlers, events, clock, random, backoff } = options;
  let current: Attempt | undefined;
  let pending = emptyPending();
  let flushTimer: Timer | undefined;
  let beatTimer: Timer | undefined;
  let retryTimer: Timer | undefined;
  let welcomeTimer: Timer | undefined;
  let failures = 0;
  let beats = 0n;
  let beatMs = 0;
  let roundTripMs: number | undefined;
  let closed = false;
  let draining = false;
  let started = false;
  let allowed = true;

  function stopTimers(): void {
    for (const timer of [flushTimer, beatTimer, retryTimer, welcomeTimer]) timer?.cancel();
    flushTimer = beatTimer = retryTimer = welcomeTimer = undefined;
  }

  function connect(): void {
    if (!allowed) return;
    const attempt: Attempt = {
      call: upstream.attach(),
      attached: false,
      over: false,
      heardMs: clock.monotonicMs(),
    };
    current = attempt;
    draining = false;
    const { call } = attempt;
    call.on("data", (message) => {
      if (!attempt.over) receive(attempt, message);
    });
    call.on("error", (error) => {
      if (error instanceof TributaryError && error.code === "gateway-loop") {
        return loop(attempt, error.message);
      }
      lose(attempt, error.message);
    });
    call.on("end", () => lose(attempt, "the upstream ended the stream"));
    call.on("drain", () => {
      draining = false;
      if (attempt.attached) scheduleFlush();
    });
    welcomeTimer = clock.setTimer(limits.welcomeTimeoutMs, () => lose(attempt, "no welcome came"));
    const [protocolVersion] = wire.protocolVersions;
    call.write({ message: { $case: "hello", value: { protocolVersion, ...facts.hello() } } });
  }

  function lose(attempt: Attempt, reason: string): void {
    if (attempt.over || closed) return;
    attempt.over = true;
    roundTripMs = undefined;
    attempt.call.cancel();
    stopTimers();
    pending = emptyPending();
    if (attempt.attached) handlers.onDetached();
    const retryMs = jitteredBackoff(random, failures++, backoff);
    events({ level: "warn", name: "uplink-lost", reason, retryMs: Math.round(retryMs) });
    retryTimer = clock.setTimer(retryMs, connect);
  }

  function detach(): void {
    stopTimers();
    roundTripMs = undefined;
    pending = emptyPending();
    if (current === undefined || current.over) return;
    current.over = true;
    current.call.cancel();
    if (current.attached && !closed) handlers.onDetached();
  }

  function loop(attempt: Attempt, message: string): void {
    if (attempt.over || closed) return;
    lose(attempt, message);
    handlers.onLoop(message);
  }

  function receive(attempt: Attempt, { message }: AttachResponse): void {
    attempt.heardMs = clock.monotonicMs();
    if (message?.$case === "welcome") return welcome(attempt, message.value);
    if (!attempt.attached) return;
    switch (message?.$case) {
      case "roundOpened":
        return handlers.onRoundOpened(message.value);
      case "roundClosed":
        return handlers.onRoundClosed(message.value.round, message.value.outcome);
      case "sessionOver":
        return handlers.onSessionOver(message.value.session);
      case "modelPublished": {
        const { session, manifest, layout } = message.value;
        return handlers.onPublished(session, manifest, layout);
      }
      case "heartbeatEcho":
        if (message.value.sequence === beats) roundTripMs = clock.monotonicMs() - beatMs;
        return;
      case "telemetryReceipt":
        return handlers.onTelemetryReceipt(message.value);
      case "challenge":
        return handlers.onChallenge?.(message.value);
      case "trust": {
        const value = handlers.onTrust?.(message.value);
        if (value !== undefined) write(attempt, { message: { $case: "trust", value } });
        return;
      }
      default: // a newer upstream's message is passed over
    }
  }

  function welcome(attempt: Attempt, value: Welcome): void {
    const { path } = value;
    const { gateway, below } = facts.hello();
    const twice = path.find((name) => name === gateway || below.includes(name));
    if (twice !== undefined || path.length > wire.tiers) {
      return loop(attempt, `the path to the cloud is a loop: ${[gateway, ...path].join(" < ")}`);
    }
    if (attempt.attached) {
      handlers.onTime(Number(value.nowMs));
      return handlers.onPath(path);
    }
    if (!(wire.protocolVersions as readonly number[]).includes(value.protocolVersion)) {
      return lose(attempt, `the upstream speaks protocol version ${value.protocolVersion}`);
    }
    welcomeTimer?.cancel();
    attempt.attached = true;
    events({ level: "info", name: "uplink-attached", upstream: value.upstream });
    pending = emptyPending();
    pending.ready = fullDeviceList(facts.devices());
    pending.trust = true;
    for (const progress of facts.progress()) pending.progress.set(progress.round, progress);
    flush();
    const asked = value.heartbeatIntervalMs;
    beat(attempt, Math.min(limits.heartbeatMaxMs, Math.max(limits.heartbeatMinMs, asked)));
    // Those below hear of the time with the path.
    handlers.onTime(Number(value.nowMs));
    handlers.onPath(path);
    handlers.onAttached();
  }

  /** Beats, and gives up a link on which the upstream has gone silent. */
  function beat(attempt: Attempt, intervalMs: number): void {
    const patienceMs = 2 * intervalMs + wire.keepaliveTimeoutMs;
    if (clock.monotonicMs() - attempt.heardMs > patienceMs) {
      return lose(attempt, `nothing was heard for ${patienceMs} ms`);
    }
    beatMs = clock.monotonicMs();
    const value = { sequence: ++beats, ...facts.heartbeat() };
    if (!draining) write(attempt, { message: { $case: "heartbeat", value } });
    beatTimer = clock.setTimer(intervalMs, () => {
      // One that attaches and breaks at once, again and again, is tried less and less often.
      failures = 0;
      beat(attempt, intervalMs);
    });
  }

  function write(attempt: Attempt, message: AttachRequest): void {
    if (!attempt.call.write(message)) draining = true;
  }

  /** Changes of one moment travel together. */
  function scheduleFlush(): void {
    flushTimer ??= clock.setTimer(0, flush);
  }

  function flush(): void {
    flushTimer?.cancel();
    flushTimer = undefined;
    const attempt = current;
    if (attempt === undefined || attempt.over || !attempt.attached || draining) return;
    const trustHeld = pending.trust ? facts.trustHeld?.() : undefined;
    pending.trust = false;
    if (trustHeld !== undefined)
      pending.ready.push({ message: { $case: "trustHeld", value: trustHeld } });
    pending.ready.push(...cutPending(pending));
    while (!draining) {
      const message = pending.ready.shift();
      if (message === undefined) return;
      write(attempt, message);
    }
  }

  const attached = () => current?.attached === true && !current.over;
  return {
    get attached() {
      return attached();
    },
    get roundTripMs() {
      return roundTripMs;
    },
    deviceChanged(change) {
      if (!attached()) return; // the full list follows the next welcome
      pending.devices.set(change.device, change.type === "joined" ? change.record : "left");
      scheduleFlush();
    },
    progress(progress) {
      if (!attached()) return;
      pending.progress.set(progress.round, progress);
      scheduleFlush();
    },
    planRefused(round, refusal) {
      if (!attached()) return;
      pending.refused.set(round, refusal);
      scheduleFlush();
    },
    trustChanged() {
      if (!attached()) return;
      pending.trust = true;
      scheduleFlush();
    },
    telemetry(value) {
      const attempt = current;
      if (attempt === undefined || !attached() || draining) return false;
      write(attempt, { message: { $case: "telemetry", value } });
      return true;
    },
    allow(open) {
      if (open === allowed) return;
      allowed = open;
      if (!open) return detach();
      failures = 0;
      if (started && !closed) connect();
    },
    start() {
      started = true;
      connect();
    },
    close() {
      closed = true;
      detach();
    },
  };
}

function describeDevice(device: string, { sdk, attributes: announced, at }: DeviceRecord): Device {
  const attributes = Buffer.from(encodeCbor(announced));
  const { site = "", gateway = "" } = at ?? {};
  return { device, sdk, attributes, site, gateway };
}

function fullDeviceList(devices: Iterable<readonly [string, DeviceRecord]>): AttachRequest[] {
  const listed = [...devices].map(([device, record]) => describeDevice(device, record));
  return cutDevices(listed, [], true);
}

/** @param all whether the first message starts the list anew; it is then sent even when empty */
function cutDevices(joined: Device[], left: string[], all: boolean): AttachRequest[] {
  const most = limits.devicesPerMessage;
  const messages: AttachRequest[] = [];
  for (let at = 0; at < Math.max(joined.length, left.length, all ? 1 : 0); at += most) {
    const value = {
      all: all && at === 0,
      joined: joined.slice(at, at + most),
      left: left.slice(at, at + most),
    };
    messages.push({ message: { $case: "devicesChanged", value } });
  }
  return messages;
}

/** Turns what has changed into messages. Devices go first: progress may speak of them. */
function cutPending(pending: Pending): AttachRequest[] {
  const joined: Device[] = [];
  const left: string[] = [];
  for (const [device, record] of pending.devices) {
    if (record === "left") left.push(device);
    else joined.push(describeDevice(device, record));
  }
  const messages = cutDevices(joined, left, false);
  for (const [round, { code, message }] of pending.refused) {
    messages.push({ message: { $case: "planRefused", value: { round, code, message } } });
  }
  for (const value of pending.progress.values()) {
    messages.push({ message: { $case: "roundProgress", value } });
  }
  pending.devices.clear();
  pending.refused.clear();
  pending.progress.clear();
  return messages;
}
