import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { test } from "node:test";
import { type LinkProxy, openProxy } from "./proxy.js";
import { until } from "./until.js";

/** A server that keeps what it was sent, and a client, with a proxy between them. */
async function stage(run: (parts: Stage) => Promise<void>): Promise<void> {
  const taken: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    taken.push(socket);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const proxy = await openProxy(portOf(server));
  const dialled: Socket[] = [];
  const stage: Stage = {
    proxy,
    async dial() {
      const near = connect({ port: proxy.port, host: "127.0.0.1", allowHalfOpen: true });
      near.on("error", () => {});
      dialled.push(near);
      const count = taken.length;
      await once(near, "connect");
      await until("the server sees the connection", () => taken.length > count);
      return { near: ended(near), far: ended(taken[count] as Socket) };
    },
  };
  try {
    await run(stage);
  } finally {
    for (const socket of [...dialled, ...taken]) socket.destroy();
    await proxy.close();
    server.close();
    await once(server, "close");
  }
}

type Stage = { readonly proxy: LinkProxy; dial(): Promise<{ near: End; far: End }> };
type End = ReturnType<typeof ended>;

/** A socket with what came out of it. */
function ended(socket: Socket) {
  const end = { socket, bytes: 0, text: "", over: false, gone: false };
  socket.on("data", (data) => {
    end.bytes += data.length;
    if (end.bytes <= 1024) end.text += data.toString();
  });
  socket.on("end", () => {
    end.over = true;
  });
  socket.on("close", () => {
    end.gone = true;
  });
  return end;
}

function portOf(server: Server): number {
  const address = server.address();
  assert.ok(typeof address === "object" && address !== null);
  return address.port;
}

/** Lets what is on its way arrive: a round trip through another proxied connection. */
async function roundTrip({ dial }: Stage): Promise<void> {
  const { near, far } = await dial();
  near.socket.write("?");
  await until("there", () => far.text === "?");
  far.socket.write("!");
  await until("and back", () => near.text === "!");
}

test("in calm weather bytes and ends pass both ways, each half by itself", () =>
  stage(async ({ proxy, dial }) => {
    const { near, far } = await dial();
    near.socket.end("up");
    await until("up arrives, with its end", () => far.text === "up" && far.over);
    assert.equal(near.over, false);
    far.socket.end("down");
    await until("down arrives, with its end", () => near.text === "down" && near.over);
    assert.deepEqual([proxy.passed("up"), proxy.passed("down")], [2, 4]);
    await until("nothing is left of the connection", () => proxy.connections === 0);
  }));

test("a connection that is reset at one side is reset at the other", () =>
  stage(async ({ proxy, dial }) => {
    const { near, far } = await dial();
    near.socket.resetAndDestroy();
    await until("the other side is gone", () => far.gone || far.over);
    far.socket.destroy();
    await until("nothing is left of the connection", () => proxy.connections === 0);
  }));

test("a cut ends connections and takes none until it is restored", () =>
  stage(async (parts) => {
    const { near, far } = await parts.dial();
    parts.proxy.cut();
    await until("both sides see the end", () => near.over || near.gone);
    await until("both sides see the end", () => far.over || far.gone);
    const refused = connect(parts.proxy.port, "127.0.0.1");
    refused.on("error", () => {});
    await once(refused, "close");
    parts.proxy.restore();
    await roundTrip(parts);
  }));

test("a frozen link takes connections, hands nothing on, and ends nothing; a thaw brings all of it", () =>
  stage(async (parts) => {
    const { near, far } = await parts.dial();
    parts.proxy.freeze();
    near.socket.write("held");
    far.socket.end("held, too");
    const later = connect(parts.proxy.port, "127.0.0.1");
    await once(later, "connect");
    later.destroy();
    assert.deepEqual([near.bytes, far.bytes, near.over], [0, 0, false]);
    assert.deepEqual([parts.proxy.passed("up"), parts.proxy.passed("down")], [0, 0]);
    parts.proxy.thaw();
    await until("up arrives", () => far.text === "held");
    await until("down arrives, with its end", () => near.text === "held, too" && near.over);
  }));

test("a link frozen in one way still passes the other", () =>
  stage(async ({ proxy, dial }) => {
    const { near, far } = await dial();
    proxy.freeze("up");
    near.socket.write("lost for now");
    far.socket.write("heard");
    await until("down arrives", () => near.text === "heard");
    assert.equal(far.bytes, 0);
    proxy.thaw();
    await until("up arrives", () => far.text === "lost for now");
  }));

test("who sends into a frozen link is held back after a bounded number of bytes", () =>
  stage(async ({ proxy, dial }) => {
    const { near, far } = await dial();
    proxy.freeze("up");
    const size = 32 * 1024 * 1024;
    near.socket.write(Buffer.alloc(size));
    await until("the sender is held back", () => near.socket.writableLength > 0);
    assert.equal(far.bytes, 0);
    proxy.thaw();
    await until("all of it arrives", () => far.bytes === size);
  }));

test("a throttled way takes at least as long as its bytes need, the other does not", () =>
  stage(async ({ proxy, dial }) => {
    const { near, far } = await dial();
    proxy.throttle(20_000, "up");
    const startMs = performance.now();
    near.socket.write(Buffer.alloc(10_000));
    far.socket.write(Buffer.alloc(1_000_000));
    await until("down arrives", () => near.bytes === 1_000_000);
    await until("up arrives", () => far.bytes === 10_000);
    assert.ok(performance.now() - startMs >= 400, "10,000 bytes came in less than 400 ms");
    proxy.throttle(undefined);
    near.socket.write(Buffer.alloc(1_000_000));
    await until("the rest comes freely", () => far.bytes === 1_010_000);
  }));

test("a delayed way hands on nothing before its time, and keeps the order", () =>
  stage(async ({ proxy, dial }) => {
    const { near, far } = await dial();
    proxy.delay(300, "down");
    const startMs = performance.now();
    far.socket.write("a");
    far.socket.end("b");
    await until("down arrives", () => near.over);
    assert.ok(performance.now() - startMs >= 299);
    assert.equal(near.text, "ab");
  }));

test("a new target is where the next connections lead", () =>
  stage(async (parts) => {
    const other = createServer((socket) => socket.end("other")).listen(0, "127.0.0.1");
    await once(other, "listening");
    parts.proxy.target = portOf(other);
    const near = connect(parts.proxy.port, "127.0.0.1");
    const [greeting] = (await once(near, "data")) as [Buffer];
    assert.equal(greeting.toString(), "other");
    near.destroy();
    other.close();
    await once(other, "close");
  }));
