import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

/**
 * A TCP link between two tiers that a test can break: cut, let in again, led to another port, muted
 * in one way, or stopped after so many bytes.
 */
export type Wire = {
  readonly port: number;
  /** Where new connections lead. */
  target: number;
  /** Bytes that went up since the wire was opened. */
  readonly bytesUp: number;
  /** Passes on `bytes` more towards the target, then nothing until `cut`. */
  stopAfter(bytes: number): void;
  /** Whether the bound of `stopAfter` is reached. */
  readonly stopped: boolean;
  /** Nothing that the target sends arrives any more, until `cut`. */
  mute(): void;
  /** Ends every connection, and takes none until `restore`. What was passed on still arrives. */
  cut(): void;
  restore(): void;
  close(): Promise<void>;
};

export async function openWire(target: number): Promise<Wire> {
  const pairs = new Set<{ readonly near: Socket; readonly far: Socket }>();
  let isCut = false;
  let isMuted = false;
  let bytesUp = 0;
  let allowed = Number.POSITIVE_INFINITY;

  const up = (near: Socket, far: Socket, data: Buffer): void => {
    const passed = data.subarray(0, allowed);
    allowed -= passed.length;
    bytesUp += passed.length;
    if (passed.length > 0 && !far.write(passed)) {
      near.pause();
      far.once("drain", () => near.resume());
    }
  };
  const server = createServer((near) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = connect(wire.target, "127.0.0.1");
    const pair = { near, far };
    pairs.add(pair);
    const end = (): void => {
      pairs.delete(pair);
      near.destroy();
      far.end();
    };
    for (const socket of [near, far]) {
      socket.setNoDelay(true);
      socket.on("error", end);
      socket.on("close", end);
    }
    near.on("data", (data) => up(near, far, data));
    far.on("data", (data) => {
      if (!isMuted) near.write(data);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the wire has no port");
  const dropAll = (): void => {
    for (const { near } of pairs) near.destroy();
  };
  const wire: Wire = {
    port: address.port,
    target,
    get bytesUp() {
      return bytesUp;
    },
    get stopped() {
      return allowed === 0;
    },
    stopAfter(bytes) {
      allowed = bytes;
    },
    mute() {
      isMuted = true;
    },
    cut() {
      isCut = true;
      dropAll();
    },
    restore() {
      isCut = false;
      isMuted = false;
      allowed = Number.POSITIVE_INFINITY;
    },
    async close() {
      isCut = true;
      dropAll();
      server.close();
      await once(server, "close");
    },
  };
  return wire;
}
