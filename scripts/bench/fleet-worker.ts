import { createHasher } from "@tributary/proto/host/digest.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { type Begin, downSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { type Plan, planSchema } from "@tributary/proto/wire/plan.js";
import type { DownKind } from "@tributary/proto/wire/topics.js";
import { updatePreimage } from "@tributary/proto/wire/update.js";
import type { FleetCommand } from "./fleet.js";
import { openRawLink, type RawLink } from "./raw-link.js";
import { gridValues } from "./values.js";
import { answerCommands } from "./worker.js";

/**
 * Many devices in one process. They keep the protocol, share one payload, and know their updates
 * and digests before the clock starts, so that what is measured is the other side.
 */

const SAMPLES = 10;
/** Model parts that a device asks for ahead, as the SDK does. */
const FETCH_WINDOW = 4;

type Device = {
  readonly name: string;
  readonly link: RawLink;
  hear: (kind: DownKind, bytes: Uint8Array) => void;
};

const devices: Device[] = [];
let round: Promise<object> | undefined;
let breakRound: (error: Error) => void = () => {};

answerCommands((command: FleetCommand): Promise<object> => {
  switch (command.do) {
    case "connect":
      return connectAll(command);
    case "prepare":
      return prepare(command);
    case "finish":
      return round ?? Promise.reject(new Error("no round is prepared"));
    case "push":
      return push(command.parameters);
  }
});

type Connect = Extract<FleetCommand, { do: "connect" }>;

/** Connects a few at a time: a listening socket's backlog is short. */
async function connectAll({ port, site, names, hello, together }: Connect): Promise<object> {
  const left = [...names];
  const lane = async (): Promise<void> => {
    for (let name = left.shift(); name !== undefined; name = left.shift()) {
      devices.push(await connectOne(port, site, name, hello));
    }
  };
  await Promise.all(Array.from({ length: together }, lane));
  setInterval(
    () => {
      for (const { link } of devices) link.ping();
    },
    (wire.mqttKeepaliveSeconds * 1000) / 2,
  );
  return {};
}

function connectOne(port: number, site: string, name: string, hello: boolean): Promise<Device> {
  return new Promise((resolve, reject) => {
    const lost = new Error(`${name} lost its connection`);
    const device: Device = {
      name,
      link: openRawLink({
        port,
        site,
        device: name,
        onUp() {
          if (hello) device.link.publish("hello", { sdk: "bench/1", attributes: {} });
          else resolve(device);
        },
        onMessage: (kind, bytes) => device.hear(kind, bytes),
        onLost() {
          reject(lost);
          breakRound(lost);
        },
      }),
      hear: (kind) => {
        if (kind === "welcome") resolve(device);
      },
    };
  });
}

/** Makes every device's update for a plan, and has them all answer its offer. */
async function prepare({
  plan: bytes,
  gateway,
}: Extract<FleetCommand, { do: "prepare" }>): Promise<object> {
  const read = decodeCbor(Buffer.from(bytes, "base64"), { depth: 16, items: 100_000 });
  if (!read.ok) throw new Error(read.message);
  const plan = planSchema.parse(read.value);
  const payload = payloadOf(plan.layout[0]?.shape[0] ?? 0);
  let startMs = Number.POSITIVE_INFINITY;
  const started = () => {
    startMs = Math.min(startMs, performance.now());
  };
  const broken = new Promise<never>((_, reject) => {
    breakRound = reject;
  });
  const receipts = devices.map((device) => {
    const begin = beginOf(plan, gateway, device.name, payload);
    return contribute(device, plan, begin, payload, started);
  });
  round = Promise.race([
    Promise.all(receipts).then(() => ({ tookMs: performance.now() - startMs })),
    broken,
  ]);
  round.catch(() => {});
  return {};
}

const payloads = new Map<number, Uint8Array>();

function payloadOf(parameters: number): Uint8Array {
  const payload = payloads.get(parameters) ?? new Uint8Array(gridValues(parameters).buffer);
  payloads.set(parameters, payload);
  return payload;
}

function beginOf(plan: Plan, gateway: string, device: string, payload: Uint8Array): Begin {
  const described = {
    round: plan.round,
    gateway,
    base: plan.base.model,
    baseDigest: plan.base.digest,
    samples: SAMPLES,
    encoding: plan.encoding,
    bytes: payload.length,
    saturated: 0,
    metrics: {},
  };
  const hasher = createHasher().update(updatePreimage(device, described)).update(payload);
  return { ...described, digest: hasher.digest() };
}

/** One device's part of a round: offer, model, begin, grant, chunks, receipt. */
function contribute(
  device: Device,
  plan: Plan,
  begin: Begin,
  payload: Uint8Array,
  started: () => void,
): Promise<void> {
  const { link } = device;
  const { model, digest, bytes: total, chunkBytes } = plan.base;
  let asked = 0;
  let fetched = 0;
  const fetchNext = (): void => {
    if (asked >= total) return;
    link.publish("fetch", { model, digest, offset: asked, length: chunkBytes });
    asked += chunkBytes;
  };
  return new Promise((resolve, reject) => {
    device.hear = (kind, bytes) => {
      switch (kind) {
        case "offer":
          for (let i = 0; i < FETCH_WINDOW; i++) fetchNext();
          return;
        case "part":
          fetched += chunkBytes;
          fetchNext();
          if (fetched < total) return;
          started();
          link.publish("begin", begin);
          return;
        case "grant": {
          const grant = decodeEnvelope(downSchemas.grant, bytes, wire.downHeaderBytes);
          if (!grant.ok) return reject(new Error(grant.message));
          sendChunks(link, plan.round, payload, grant.header.windowBytes).catch(reject);
          return;
        }
        case "receipt":
          return resolve();
        case "refusal":
        case "closed":
          return reject(new Error(`${device.name} is told ${kind}: ${Buffer.from(bytes)}`));
        case "enrolled":
        case "welcome":
          return;
      }
    };
  });
}

/** Sends all chunks with at most `windowBytes` unacknowledged; resolves at the last PUBACK. */
function sendChunks(
  link: RawLink,
  roundId: string,
  payload: Uint8Array,
  windowBytes: number,
): Promise<void> {
  let sent = 0;
  let acknowledged = 0;
  return new Promise((resolve) => {
    const next = (): void => {
      while (sent < payload.length && sent - acknowledged + wire.chunkBytes <= windowBytes) {
        const chunk = payload.subarray(sent, sent + wire.chunkBytes);
        link.publish("chunk", { round: roundId, offset: sent }, chunk, () => {
          acknowledged += chunk.length;
          if (acknowledged === payload.length) resolve();
          else next();
        });
        sent += chunk.length;
      }
    };
    next();
  });
}

/** The same chunks in the same windows to a broker that answers with PUBACK alone. */
async function push(parameters: number): Promise<object> {
  const payload = payloadOf(parameters);
  const startMs = performance.now();
  await Promise.all(
    devices.map(({ link }) => sendChunks(link, "bench.1", payload, 4 * wire.chunkBytes)),
  );
  return { tookMs: performance.now() - startMs };
}
