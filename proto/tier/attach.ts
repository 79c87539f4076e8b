import type {
  AttachRequest,
  AttachResponse,
  DevicesChanged,
  Heartbeat,
  Hello,
  PlanRefused,
  RoundProgress,
  Telemetry,
  TelemetryReceipt,
} from "../gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "../host/clock.js";
import type { IsVoid } from "../identity/denylist.js";
import { isId, splitNumberedId } from "../wire/ids.js";
import { limits as wireLimits } from "../wire/limits.js";
import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import type { LinkEvents } from "./events.js";
import { limits } from "./limits.js";
import type { Peer } from "./peer.js";
import { checkTrustHeld, isShut, type TrustKeeper } from "./trust.js";

/** A control stream as far as this side drives it. The transport's own, or one in memory. */
export type ControlStream = {
  /** The gateway that opened it, by its certificate; none on a plain link. */
  readonly shownBy?: Peer | undefined;
  /** False when the stream wants `drain` first. */
  write(message: AttachResponse): boolean;
  end(): void;
  /** Ends the stream with a refusal, which the gateway is told. */
  fail(refusal: Refusal): void;
  on(event: "data", listener: (message: AttachRequest) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "drain" | "end" | "cancelled" | "close", listener: () => void): unknown;
};

/** What the control streams tell those who run the rounds. */
export type Members = {
  /** Gateways or devices came or went. */
  fleetChanged(): void;
  /** What a gateway that attached is to know; `rounds` are those it holds results of. */
  attached(gateway: string, rounds: readonly string[]): Promise<AttachResponse[]>;
  detached(gateway: string): void;
  progressed(gateway: string, progress: RoundProgress): void;
  planRefused(gateway: string, refused: PlanRefused): void;
  /** Keeps entries; resolves, once they are durable, with the receipt, or with none. */
  telemetry(gateway: string, telemetry: Telemetry): Promise<TelemetryReceipt | undefined>;
};

/** Who keeps the list of gateways. */
export type GatewayRoll = {
  /** False when too many are known. */
  attach(hello: Hello): boolean;
  detach(gateway: string): void;
  /** It sent something. */
  seen(gateway: string): void;
  heartbeat(gateway: string, figures: Heartbeat): void;
};

/** Who keeps the list of their devices. */
export type DeviceRoll = {
  /** Takes a gateway's report, as a whole or not at all. `dropped` counts devices past the bound. */
  change(
    gateway: string,
    site: string,
    report: DevicesChanged,
  ): Verdict<{ readonly dropped: number }, "malformed">;
};

/** The way down to the gateways. What is sent to one that is not attached is dropped: it asks again. */
export type Links = {
  send(gateway: string, message: AttachResponse): void;
  broadcast(message: AttachResponse): void;
};

/** The control streams of the gateways: one live stream per gateway, of which the newest wins. */
export type Attachments = {
  readonly links: Links;
  /** Takes a new stream. `members` is what runs the rounds. */
  accept(call: ControlStream, members: Members): void;
  /** What is above this side has changed: says so in a new Welcome, and ends a stream that makes a loop. */
  pathChanged(): void;
  /** Ends the streams of gateways whose certificates are void; returns how many. */
  shut(isVoid: IsVoid): number;
  /** Ends every stream. */
  close(): void;
};

export type AttachmentsWorld = {
  readonly clock: Clock;
  readonly gateways: GatewayRoll;
  readonly devices: DeviceRoll;
  readonly events: LinkEvents;
  /** This side's name, for Welcome. */
  readonly upstream: string;
  /** Names of what is above this side, the nearest first; none at the root. */
  readonly above: () => readonly string[];
  /** Wall clock in milliseconds; 0 when this side does not trust its own. */
  readonly nowMs: () => number;
  /** Undefined as long as this side belongs to no fleet. */
  readonly trust?: () => TrustKeeper | undefined;
  readonly heartbeatIntervalMs: number;
  /** A gateway that sent nothing for so long is taken as detached. */
  readonly heartbeatMissedMs: number;
};

type Stream = {
  readonly gateway: string;
  readonly site: string;
  readonly hello: Hello;
  readonly shownFrom: number | undefined;
  send(message: AttachResponse): void;
  end(refusal?: Refusal): void;
  heardMs: number;
};

export function createAttachments(world: AttachmentsWorld): Attachments {
  const { clock, gateways, events, heartbeatIntervalMs, heartbeatMissedMs } = world;
  const live = new Map<string, Stream>();
  let sweep: Timer | undefined;
  let closed = false;

  const forget = (stream: Stream, members: Members, reason: string) => {
    if (live.get(stream.gateway) !== stream) return;
    const { gateway } = stream;
    live.delete(gateway);
    gateways.detach(gateway);
    events({ level: "warn", name: "gateway-detached", gateway, reason });
    members.detached(gateway);
    members.fleetChanged();
  };

  const pathNow = () => [world.upstream, ...world.above()];
  const welcome = (protocolVersion: number): AttachResponse => ({
    message: {
      $case: "welcome",
      value: {
        protocolVersion,
        upstream: world.upstream,
        heartbeatIntervalMs,
        path: pathNow(),
        nowMs: BigInt(Math.round(world.nowMs())),
      },
    },
  });

  /** Ends streams that went silent; skips a turn after a pause of this process's own. */
  const watch = (members: Members) => {
    const dueMs = clock.monotonicMs() + heartbeatIntervalMs;
    sweep = clock.setTimer(heartbeatIntervalMs, () => {
      const nowMs = clock.monotonicMs();
      const late = nowMs - dueMs > heartbeatIntervalMs;
      for (const stream of late ? [] : [...live.values()]) {
        if (nowMs - stream.heardMs < heartbeatMissedMs) continue;
        stream.end(refuse("busy", "no heartbeat came"));
        forget(stream, members, "no heartbeat came");
      }
      if (!closed) watch(members);
    });
  };

  const greet = (
    call: ControlStream,
    hello: Hello,
    members: Members,
  ): Verdict<{ stream: Stream }> => {
    const checked = checkHello(hello);
    if (!checked.ok) return checked;
    const own = checkSelf(call.shownBy, hello);
    if (!own.ok) return own;
    const placed = checkPlace(pathNow(), hello);
    if (!placed.ok) return placed;
    if (!gateways.attach(hello)) return refuse("busy", "too many gateways are known");
    const { gateway, site, incarnation, softwareVersion } = hello;
    const older = live.get(gateway);
    const stream = createStream(call, hello, clock.monotonicMs());
    live.set(gateway, stream);
    if (older !== undefined) {
      events({ level: "warn", name: "gateway-replaced", gateway, incarnation });
      older.end(refuse("id-in-use", `a newer connection of ${gateway} took over`));
    }
    stream.send(welcome(hello.protocolVersion));
    events({
      level: "info",
      name: "gateway-attached",
      gateway,
      site,
      incarnation,
      softwareVersion,
    });
    members.attached(gateway, hello.rounds).then(
      (messages) => messages.forEach(stream.send),
      (error: unknown) =>
        events({ level: "error", name: "call-failed", call: "Attach", message: String(error) }),
    );
    return { ok: true, stream };
  };

  return {
    links: {
      send: (gateway, message) => live.get(gateway)?.send(message),
      broadcast(message) {
        for (const stream of live.values()) stream.send(message);
      },
    },
    accept(call, members) {
      if (sweep === undefined) watch(members);
      let stream: Stream | undefined;
      let over = false;
      const finish = (reason: string) => {
        over = true;
        helloTimer.cancel();
        if (stream !== undefined) forget(stream, members, reason);
      };
      const deny = (refusal: Refusal) => {
        const { code, message } = refusal;
        const gateway = stream?.gateway ?? "unknown";
        events({ level: "warn", name: "gateway-refused", gateway, code, message });
        finish(message);
        call.fail(refusal);
      };
      const helloTimer = clock.setTimer(limits.helloTimeoutMs, () => {
        if (stream === undefined) deny(refuse("malformed", "no Hello came"));
      });
      call.on("data", (request: AttachRequest) => {
        if (over) return;
        if (stream === undefined) {
          const first = request.message;
          const greeted =
            first?.$case === "hello"
              ? greet(call, first.value, members)
              : refuse("malformed", "the first message must be Hello");
          if (!greeted.ok) return deny(greeted);
          stream = greeted.stream;
          return;
        }
        if (live.get(stream.gateway) !== stream) return;
        stream.heardMs = clock.monotonicMs();
        const taken = takeMessage(world, members, stream, request);
        if (!taken.ok) deny(taken);
      });
      call.on("end", () => {
        finish("the gateway ended the stream");
        call.end();
      });
      call.on("cancelled", () => finish("the link broke"));
      call.on("error", (error: Error) => finish(error.message));
      call.on("close", () => finish("the link closed"));
    },
    pathChanged() {
      for (const stream of [...live.values()]) {
        const placed = checkPlace(pathNow(), stream.hello);
        if (placed.ok) stream.send(welcome(stream.hello.protocolVersion));
        else stream.end(placed);
      }
    },
    shut(isVoid) {
      const shut = [...live.values()].filter((stream) => isShut(isVoid, stream));
      for (const { gateway, end } of shut) {
        const refusal = refuse("identity-revoked", `${gateway} was revoked`);
        const { code, message } = refusal;
        events({ level: "warn", name: "gateway-refused", gateway, code, message });
        end(refusal);
      }
      return shut.length;
    },
    close() {
      closed = true;
      sweep?.cancel();
      for (const stream of live.values()) stream.end();
    },
  };
}

function checkHello(hello: Hello): Verdict<object> {
  const { protocolVersion, gateway, site, incarnation, softwareVersion, rounds, below } = hello;
  if (!(wireLimits.protocolVersions as readonly number[]).includes(protocolVersion))
    return refuse(
      "protocol-version",
      `protocol version ${protocolVersion}; this side speaks ${wireLimits.protocolVersions.join(", ")}`,
    );
  if (![gateway, site, incarnation].every(isId))
    return refuse("malformed", "gateway, site and incarnation must be ids");
  if (softwareVersion.length > wireLimits.attributeChars)
    return refuse("malformed", "software_version is too long");
  if (rounds.length > limits.helloRounds || !rounds.every((round) => splitNumberedId(round)))
    return refuse("malformed", `rounds must be at most ${limits.helloRounds} round ids`);
  if (below.length > wireLimits.gatewaysBelow || !below.every(isId))
    return refuse("malformed", `below must be at most ${wireLimits.gatewaysBelow} ids`);
  return { ok: true };
}

/** Who shows a certificate attaches under the name in it, at the site in it. */
function checkSelf(shown: Peer | undefined, { gateway, site }: Hello): Verdict<object> {
  if (shown === undefined || (shown.name === gateway && shown.site === site)) return { ok: true };
  const message = `the certificate is for ${shown.name} of ${shown.site}, not for ${gateway} of ${site}`;
  return refuse("certificate-subject", message);
}

/** A gateway may be neither this side nor above it, nor have this side below it. */
function checkPlace(path: readonly string[], { gateway, below }: Hello): Verdict<object> {
  if (path.includes(gateway))
    return refuse("gateway-loop", `${gateway} is above itself: ${path.join(" < ")}`);
  const [self = ""] = path;
  return below.includes(self)
    ? refuse("gateway-loop", `${gateway} is above ${self}, and would be below it`)
    : { ok: true };
}

function takeMessage(
  { gateways, devices, events, trust }: AttachmentsWorld,
  members: Members,
  stream: Stream,
  { message }: AttachRequest,
): Verdict<object> {
  const { gateway, site } = stream;
  switch (message?.$case) {
    case "hello":
      return refuse("malformed", "a second Hello");
    case "devicesChanged": {
      const report = message.value;
      const changed = devices.change(gateway, site, report);
      if (!changed.ok) return changed;
      const { dropped } = changed;
      if (dropped > 0) events({ level: "warn", name: "devices-full", gateway, dropped });
      const [joined, left] = [report.joined.length, report.left.length];
      events({ level: "debug", name: "devices-changed", gateway, joined, left });
      gateways.seen(gateway);
      members.fleetChanged();
      return { ok: true };
    }
    case "roundProgress":
      gateways.seen(gateway);
      members.progressed(gateway, message.value);
      return { ok: true };
    case "heartbeat":
      gateways.heartbeat(gateway, message.value);
      stream.send({
        message: { $case: "heartbeatEcho", value: { sequence: message.value.sequence } },
      });
      return { ok: true };
    case "planRefused":
      gateways.seen(gateway);
      members.planRefused(gateway, message.value);
      return { ok: true };
    case "telemetry":
      gateways.seen(gateway);
      members.telemetry(gateway, message.value).then(
        (receipt) => {
          if (receipt !== undefined)
            stream.send({ message: { $case: "telemetryReceipt", value: receipt } });
        },
        (error: unknown) =>
          events({ level: "error", name: "call-failed", call: "Attach", message: String(error) }),
      );
      return { ok: true };
    case "trustHeld": {
      const malformed = checkTrustHeld(message.value);
      if (malformed !== undefined) return malformed;
      const answer = trust?.()?.held(gateway, message.value);
      if (answer !== undefined) stream.send({ message: { $case: "trust", value: answer } });
      return { ok: true };
    }
    case "trust":
      trust?.()?.carried(gateway, message.value);
      return { ok: true };
    case undefined: // a newer gateway's message is passed over
      return { ok: true };
  }
}

function createStream(call: ControlStream, hello: Hello, nowMs: number): Stream {
  const backlog: AttachResponse[] = [];
  let flowing = true;
  let ended = false;
  const end = (refusal?: Refusal) => {
    if (ended) return;
    ended = true;
    if (refusal === undefined) call.end();
    else call.fail(refusal);
  };
  /** A list is large, and a newer one holds all that an older one does. */
  const dropOlderTrust = () => {
    const at = backlog.findIndex(({ message }) => message?.$case === "trust");
    if (at >= 0) backlog.splice(at, 1);
  };
  call.on("drain", () => {
    flowing = true;
    while (flowing && !ended) {
      const next = backlog.shift();
      if (next === undefined) return;
      flowing = call.write(next);
    }
  });
  return {
    gateway: hello.gateway,
    site: hello.site,
    hello,
    shownFrom: call.shownBy?.from,
    heardMs: nowMs,
    end,
    send(message) {
      if (ended) return;
      if (message.message?.$case === "trust") dropOlderTrust();
      if (flowing) flowing = call.write(message);
      else if (backlog.length < limits.attachBacklog) backlog.push(message);
      else end(refuse("busy", "the gateway reads too slowly"));
    },
  };
}
