import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

/** Towards the target, or from it. */
export type Way = "up" | "down";

/**
 * A TCP link that a test makes bad, in one way or both: it cuts, freezes, throttles and delays. The
 * bytes themselves stay whole and in order, as TCP keeps them; a bad link is a slow or silent one.
 */
export type LinkProxy = {
  readonly port: number;
  /** Where new connections lead. */
  target: number;
  /** Connections that stand. */
  readonly connections: number;
  /** Bytes handed on in that way since the proxy was opened. */
  passed(way: Way): number;
  /** Ends every connection, and takes none until `restore`. */
  cut(): void;
  restore(): void;
  /**
   * Connections are taken and nothing is handed on, ends neither: what a path that drops packets
   * looks like from its two sides. What came meanwhile is handed on after `thaw`.
   */
  freeze(...ways: readonly Way[]): void;
  thaw(): void;
  /** Hands on so many bytes a second of each connection; undefined for as many as come. */
  throttle(bytesPerSecond: number | undefined, ...ways: readonly Way[]): void;
  /** Hands on what came so many milliseconds ago; 0 for at once. */
  delay(delayMs: number, ...ways: readonly Way[]): void;
  close(): Promise<void>;
};

type Weather = { frozen: boolean; bytesPerSecond: number | undefined; delayMs: number };

/** Bytes of one way of a connection that the proxy holds; past it the sender feels the link. */
const HELD_BYTES = 64 * 1024;
/** A throttled way hands on a little so often. */
const TICK_MS = 20;

export async function openProxy(target: number): Promise<LinkProxy> {
  const calm = (): Weather => ({ frozen: false, bytesPerSecond: undefined, delayMs: 0 });
  const weather = { up: calm(), down: calm() };
  const passed = { up: 0, down: 0 };
  const pairs = new Set<readonly Lane[]>();
  let isCut = false;

  const server = createServer({ allowHalfOpen: true }, (near) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = connect({ port: proxy.target, host: "127.0.0.1", allowHalfOpen: true });
    const count = (way: Way) => (bytes: number) => {
      passed[way] += bytes;
    };
    const lanes = [
      openLane(near, far, weather.up, count("up")),
      openLane(far, near, weather.down, count("down")),
    ];
    pairs.add(lanes);
    for (const socket of [near, far]) {
      socket.setNoDelay(true);
      socket.on("close", () => {
        if (near.closed && far.closed) pairs.delete(lanes);
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");

  const change = (ways: readonly Way[], alter: (weather: Weather) => void): void => {
    for (const way of ways.length === 0 ? (["up", "down"] as const) : ways) alter(weather[way]);
    for (const lanes of pairs) for (const lane of lanes) lane.pump();
  };
  const dropAll = (): void => {
    for (const lanes of pairs) for (const lane of lanes) lane.drop();
  };
  const proxy: LinkProxy = {
    port: address.port,
    target,
    get connections() {
      return pairs.size;
    },
    passed: (way) => passed[way],
    cut() {
      isCut = true;
      dropAll();
    },
    restore() {
      isCut = false;
    },
    freeze: (...ways) =>
      change(ways, (way) => {
        way.frozen = true;
      }),
    thaw: () =>
      change([], (way) => {
        way.frozen = false;
      }),
    throttle: (bytesPerSecond, ...ways) =>
      change(ways, (way) => {
        way.bytesPerSecond = bytesPerSecond;
      }),
    delay: (delayMs, ...ways) =>
      change(ways, (way) => {
        way.delayMs = delayMs;
      }),
    async close() {
      isCut = true;
      dropAll();
      server.close();
      await once(server, "close");
    },
  };
  return proxy;
}

/** One way of one connection. */
type Lane = {
  /** Hands on what may go now, and sets a timer for what may go later. */
  pump(): void;
  drop(): void;
};

function openLane(
  from: Socket,
  to: Socket,
  weather: Weather,
  count: (bytes: number) => void,
): Lane {
  const held: { bytes: Buffer; readonly cameMs: number }[] = [];
  let heldBytes = 0;
  let ended: "end" | "broken" | undefined;
  let full = false;
  let timer: NodeJS.Timeout | undefined;
  /** Bytes that a throttled way may hand on now, as of `grantedMs`. */
  let granted = 0;
  let grantedMs = performance.now();

  const later = (ms: number): void => {
    timer ??= setTimeout(() => {
      timer = undefined;
      pump();
    }, ms);
  };
  const allowance = (): number => {
    const { bytesPerSecond } = weather;
    if (bytesPerSecond === undefined) return Number.POSITIVE_INFINITY;
    const nowMs = performance.now();
    const most = Math.max(1, (bytesPerSecond * 2 * TICK_MS) / 1000);
    granted = Math.min(most, granted + ((nowMs - grantedMs) * bytesPerSecond) / 1000);
    grantedMs = nowMs;
    return Math.floor(granted);
  };
  const pump = (): void => {
    while (!weather.frozen && !full) {
      const first = held[0];
      if (first === undefined) break;
      const waitMs = first.cameMs + weather.delayMs - performance.now();
      if (waitMs > 0) return later(Math.ceil(waitMs));
      const most = allowance();
      if (most < 1) return later(TICK_MS);
      const bytes = first.bytes.subarray(0, most);
      granted -= bytes.length;
      heldBytes -= bytes.length;
      if (bytes.length === first.bytes.length) held.shift();
      else first.bytes = first.bytes.subarray(bytes.length);
      count(bytes.length);
      full = !to.write(bytes);
    }
    if (heldBytes < HELD_BYTES) from.resume();
    if (weather.frozen || held.length > 0) return;
    if (ended === "end") to.end();
    if (ended === "broken") to.destroy();
  };

  to.on("drain", () => {
    full = false;
    pump();
  });
  from.on("data", (bytes) => {
    held.push({ bytes, cameMs: performance.now() });
    heldBytes += bytes.length;
    if (heldBytes >= HELD_BYTES) from.pause();
    pump();
  });
  from.on("end", () => {
    ended ??= "end";
    pump();
  });
  from.on("error", () => {});
  from.on("close", (failed) => {
    if (failed) ended = "broken";
    // Its own other half may still be open; a socket that is gone takes nothing more.
    else ended ??= "broken";
    pump();
  });
  return {
    pump,
    drop() {
      clearTimeout(timer);
      held.length = 0;
      from.destroy();
      to.destroy();
    },
  };
}
