import type { Random } from "@tributary/proto/host/random.js";
import type { Agenda, Entry } from "./agenda.js";
import type { Life } from "./node.js";
import type { Trace } from "./trace.js";

/** One end of a connection, as the program that holds it drives it. */
export type Wire = {
  /** Sends a message; nothing happens on a connection that is over. */
  send(message: Uint8Array, sent?: () => void): void;
  /** Ends it: the other end is told behind what was sent before. Nothing more is heard here. */
  close(): void;
  /** Messages sent from here that have not arrived. */
  readonly unsent: number;
  readonly open: boolean;
};

/** What a connection tells the program at its end. */
export type Ends = {
  onMessage(message: Uint8Array): void;
  /** Once, unless this end closed it. */
  onClose(reason: string): void;
};

export type Weather = {
  readonly delayLeastMs: number;
  readonly delayMostMs: number;
  /** Chance that a message is lost and sent again by TCP, which only delays it and what is behind it. */
  readonly lossRate: number;
  readonly lossDelayMs: number;
};

/** Connections between machines: each direction in order, none in step with another. */
export type Network = {
  listen(life: Life, port: string, accept: (wire: Wire, from: string) => Ends): () => void;
  dial(life: Life, to: string, port: string, keepaliveMs: number, ends: Ends): Wire;
  /** Nothing passes from one machine to another until `open` is called; what is sent waits. */
  clog(from: string, to: string): void;
  open(from: string, to: string): void;
  /** From now on nothing is clogged and nothing is lost. */
  calm(): void;
  /** Breaks every connection between two machines: what is under way is lost, each end hears of it later. */
  cut(a: string, b: string): void;
  /** The machine went down in this life; those it was connected with learn it, now or by silence. */
  died(life: Life, politely: boolean): void;
  /** Connections that one end at least takes for open. */
  readonly connections: number;
};

type Direction = {
  readonly from: string;
  readonly to: string;
  readonly queue: {
    readonly dueMs: number;
    deliver(): void;
    readonly sent?: (() => void) | undefined;
  }[];
  scheduled: Entry | undefined;
  lastDueMs: number;
};

type End = {
  readonly life: Life;
  readonly wire: Wire;
  open: boolean;
  ends: Ends | undefined;
};

type Connection = {
  readonly keepaliveMs: number;
  readonly up: Direction;
  readonly down: Direction;
  readonly dialler: End;
  acceptor: End | undefined;
  /** Broken on the way: nothing is delivered any more, though an end may not know. */
  broken: boolean;
};

export function createNetwork(
  agenda: Agenda,
  random: Random,
  weather: Weather,
  trace: Pick<Trace, "note" | "bytes">,
): Network {
  const listeners = new Map<string, { life: Life; accept: (wire: Wire, from: string) => Ends }>();
  const connections = new Set<Connection>();
  let { lossRate } = weather;
  const clogged = new Map<string, number>();
  const edge = (from: string, to: string) => `${from}>${to}`;
  const between = (leastMs: number, mostMs: number) => leastMs + random.next() * (mostMs - leastMs);

  function transitMs(): number {
    const delayMs = between(weather.delayLeastMs, weather.delayMostMs);
    return random.next() < lossRate ? delayMs + between(0, weather.lossDelayMs) : delayMs;
  }

  function put(direction: Direction, deliver: () => void, sent?: () => void): void {
    const dueMs = Math.max(direction.lastDueMs, agenda.nowMs + transitMs());
    direction.lastDueMs = dueMs;
    direction.queue.push({ dueMs, deliver, sent });
    schedule(direction);
  }

  function schedule(direction: Direction): void {
    const [first] = direction.queue;
    if (first === undefined || direction.scheduled !== undefined) return;
    if (clogged.has(edge(direction.from, direction.to))) return;
    direction.scheduled = agenda.at(first.dueMs, () => {
      direction.scheduled = undefined;
      if (clogged.has(edge(direction.from, direction.to))) return;
      direction.queue.shift();
      schedule(direction);
      first.sent?.();
      first.deliver();
    });
  }

  function newDirection(from: string, to: string): Direction {
    return { from, to, queue: [], scheduled: undefined, lastDueMs: 0 };
  }

  function newWire(
    connection: () => Connection,
    own: () => End,
    other: () => End | undefined,
    direction: Direction,
  ): Wire {
    return {
      get unsent() {
        return direction.queue.length;
      },
      get open() {
        return own().open;
      },
      send(message, sent) {
        if (!own().open || !own().life.alive || connection().broken) return sent?.();
        const bytes = message.slice();
        put(direction, () => receive(connection(), other(), bytes), sent);
      },
      close() {
        if (!own().open) return;
        own().open = false;
        put(direction, () => end(connection(), other(), "the other end closed it"));
      },
    };
  }

  function receive(connection: Connection, end: End | undefined, bytes: Uint8Array): void {
    if (end === undefined || connection.broken || !end.open || !end.life.alive) return;
    trace.bytes(bytes);
    end.ends?.onMessage(bytes);
  }

  function end(connection: Connection, at: End | undefined, reason: string): void {
    if (at?.open) {
      at.open = false;
      if (at.life.alive) at.ends?.onClose(reason);
    }
    forget(connection);
  }

  function forget(connection: Connection): void {
    const { dialler, acceptor } = connection;
    if (dialler.open || acceptor?.open) return;
    if (connection.up.queue.length > 0 || connection.down.queue.length > 0) {
      if (!connection.broken) return;
    }
    connections.delete(connection);
    for (const { queue } of [connection.up, connection.down])
      for (const { sent } of queue.splice(0)) sent?.();
  }

  function breakDown(connection: Connection, toldWithinMs: number): void {
    connection.broken = true;
    for (const direction of [connection.up, connection.down]) {
      for (const { sent } of direction.queue.splice(0)) sent?.();
      direction.scheduled?.cancel();
      direction.scheduled = undefined;
    }
    for (const at of [connection.dialler, connection.acceptor])
      if (at?.open)
        agenda.after(between(0, toldWithinMs), () => end(connection, at, "the connection broke"));
    forget(connection);
  }

  /** Keepalives go unanswered while a direction is clogged: an end that hears nothing gives up. */
  function watch(from: string, to: string): void {
    const since = clogged.get(edge(from, to));
    for (const connection of connections) {
      const { up, down } = connection;
      const upward = up.from === from && up.to === to;
      if (!upward && !(down.from === from && down.to === to)) continue;
      agenda.after(connection.keepaliveMs * between(1, 1.5), () => {
        if (clogged.get(edge(from, to)) !== since) return;
        // Pings or their answers are stuck: the dialler notices either way, the acceptor misses pings.
        const { dialler, acceptor } = connection;
        for (const at of upward ? [dialler, acceptor] : [dialler])
          if (at?.open) {
            const wire = at.wire;
            wire.close();
            if (at.life.alive) at.ends?.onClose("nothing was heard");
          }
      });
    }
  }

  return {
    listen(life, port, accept) {
      const key = `${life.node}:${port}`;
      const listener = { life, accept };
      listeners.set(key, listener);
      return () => {
        if (listeners.get(key) === listener) listeners.delete(key);
      };
    },
    dial(life, to, port, keepaliveMs, ends) {
      const up = newDirection(life.node, to);
      const down = newDirection(to, life.node);
      const self = () => connection;
      const acceptorOf = () => connection.acceptor;
      const dialler: End = {
        life,
        open: true,
        ends,
        wire: newWire(self, () => dialler, acceptorOf, up),
      };
      const connection: Connection = {
        keepaliveMs,
        up,
        down,
        dialler,
        acceptor: undefined,
        broken: false,
      };
      connections.add(connection);
      put(up, () => {
        if (connection.broken) return;
        const listener = listeners.get(`${to}:${port}`);
        if (!listener?.life.alive) {
          put(down, () => end(connection, dialler, "the connection was refused"));
          return;
        }
        const acceptor: End = {
          life: listener.life,
          open: true,
          ends: undefined,
          wire: newWire(
            self,
            () => acceptor,
            () => dialler,
            down,
          ),
        };
        connection.acceptor = acceptor;
        acceptor.ends = listener.accept(acceptor.wire, life.node);
      });
      return dialler.wire;
    },
    clog(from, to) {
      if (clogged.has(edge(from, to))) return;
      clogged.set(edge(from, to), agenda.nowMs);
      watch(from, to);
    },
    open(from, to) {
      if (!clogged.delete(edge(from, to))) return;
      for (const { up, down } of connections)
        for (const direction of [up, down])
          if (direction.from === from && direction.to === to) schedule(direction);
    },
    calm() {
      lossRate = 0;
      clogged.clear();
      for (const { up, down } of connections)
        for (const direction of [up, down]) schedule(direction);
    },
    cut(a, b) {
      for (const connection of connections) {
        const { from, to } = connection.up;
        if ((from === a && to === b) || (from === b && to === a)) breakDown(connection, TOLD_MS);
      }
    },
    died(life, politely) {
      for (const connection of connections) {
        const { dialler, acceptor } = connection;
        for (const [own, other] of [
          [dialler, acceptor],
          [acceptor, dialler],
        ] as const) {
          if (own?.life !== life) continue;
          own.open = false;
          if (other === undefined) continue;
          // A process that dies leaves a kernel that ends its connections; a machine leaves silence.
          if (politely) own.wire.close();
          breakDown(connection, politely ? TOLD_MS / 10 : connection.keepaliveMs * 1.5);
        }
        forget(connection);
      }
    },
    get connections() {
      return connections.size;
    },
  };
}

/** The end of a broken connection learns of it within so long, where the kernel finds out by itself. */
const TOLD_MS = 5_000;
