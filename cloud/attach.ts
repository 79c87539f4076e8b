import type { ServerDuplexStream } from "@grpc/grpc-js";
import type {
  AttachRequest,
  AttachResponse,
  Hello,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { isId, splitNumberedId } from "@tributary/proto/wire/ids.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { Devices } from "./devices.js";
import type { CloudEvents } from "./events.js";
import type { Gateways } from "./gateways.js";
import { statusError } from "./grpc-status.js";
import { limits } from "./limits.js";
import type { Links } from "./links.js";
import type { Members } from "./sessions.js";

type Call = ServerDuplexStream<AttachRequest, AttachResponse>;

/** The control streams of the gateways: one live stream per gateway, of which the newest wins. */
export type Attachments = {
  readonly links: Links;
  /** Takes a new stream. `members` is what runs the rounds. */
  accept(call: Call, members: Members): void;
  /** Ends every stream. */
  close(): void;
};

export type AttachmentsWorld = {
  readonly clock: Clock;
  readonly gateways: Gateways;
  readonly devices: Devices;
  readonly events: CloudEvents;
  /** This side's name, for Welcome. */
  readonly upstream: string;
  readonly heartbeatIntervalMs: number;
  /** A gateway that sent nothing for so long is taken as detached. */
  readonly heartbeatMissedMs: number;
};

type Stream = {
  readonly gateway: string;
  readonly site: string;
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

  const greet = (call: Call, hello: Hello, members: Members): Verdict<{ stream: Stream }> => {
    const checked = checkHello(hello);
    if (!checked.ok) return checked;
    if (!gateways.attach(hello)) return refuse("busy", `${limits.gateways} gateways are known`);
    const { gateway, site, incarnation, softwareVersion } = hello;
    const older = live.get(gateway);
    const stream = createStream(call, gateway, site, clock.monotonicMs());
    live.set(gateway, stream);
    if (older !== undefined) {
      events({ level: "warn", name: "gateway-replaced", gateway, incarnation });
      older.end(refuse("id-in-use", `a newer connection of ${gateway} took over`));
    }
    stream.send({
      message: {
        $case: "welcome",
        value: {
          protocolVersion: hello.protocolVersion,
          upstream: world.upstream,
          heartbeatIntervalMs,
        },
      },
    });
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
        call.emit("error", statusError(refusal));
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
    close() {
      closed = true;
      sweep?.cancel();
      for (const stream of live.values()) stream.end();
    },
  };
}

function checkHello(hello: Hello): Verdict<object> {
  const { protocolVersion, gateway, site, incarnation, softwareVersion, rounds } = hello;
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
  return { ok: true };
}

function takeMessage(
  { gateways, devices, events }: AttachmentsWorld,
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
    case undefined: // a newer gateway's message is passed over
      return { ok: true };
  }
}

function createStream(call: Call, gateway: string, site: string, nowMs: number): Stream {
  const backlog: AttachResponse[] = [];
  let flowing = true;
  let ended = false;
  const end = (refusal?: Refusal) => {
    if (ended) return;
    ended = true;
    if (refusal === undefined) call.end();
    else call.emit("error", statusError(refusal));
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
    gateway,
    site,
    heardMs: nowMs,
    end,
    send(message) {
      if (ended) return;
      if (flowing) flowing = call.write(message);
      else if (backlog.length < limits.attachBacklog) backlog.push(message);
      else end(refuse("busy", "the gateway reads too slowly"));
    },
  };
}
