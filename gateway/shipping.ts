import type { PartialId, PartialState } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import { cloudRound } from "@tributary/proto/wire/ids.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import type { Outbox } from "./outbox.js";
import type { Rate } from "./rate.js";
import type { OutboxRecord } from "./store.js";
import type { Upstream } from "./upstream.js";

/** Delivers the outbox, in order, whenever there is a link. */
export type Shipping = {
  /** The link is up, or there is something new: go on, without waiting for a backoff. */
  kick(): void;
  /** What of the entry that is being sent is upstream already, as far as is known. */
  readonly sentBytes: number;
  /** Resolves when nothing is under way any more. */
  close(): Promise<void>;
};

export type ShippingOptions = {
  readonly gateway: string;
  readonly incarnation: string;
  readonly outbox: Pick<Outbox, "next" | "read" | "check" | "remove" | "expire">;
  readonly upstream: Pick<Upstream, "openPartial" | "sendPartial">;
  readonly attached: () => boolean;
  readonly rate: Pick<Rate, "pieceBytes" | "take">;
  readonly events: GatewayEvents;
  readonly clock: Clock;
  readonly random: Random;
  readonly backoff: { readonly baseMs: number; readonly capMs: number };
};

export function createShipping(options: ShippingOptions): Shipping {
  const { outbox, upstream, attached, rate, events, clock, random, backoff } = options;
  let running: Promise<void> | undefined;
  let retry: Timer | undefined;
  let failures = 0;
  let again = false;
  let closed = false;
  /** Of the entry that is begun: what the upstream said it holds, and with what was sent since. */
  let heldBytes = 0;
  let sentBytes = 0;

  /** Whether the entry has been answered for good and is gone from the outbox. */
  async function deliver(entry: OutboxRecord): Promise<boolean> {
    const id: PartialId = {
      gateway: options.gateway,
      incarnation: options.incarnation,
      sequence: BigInt(entry.sequence),
    };
    const { digest, bytes } = entry;
    const round = newestRound(entry);
    const opened = await upstream.openPartial({ id, round, digest, totalBytes: BigInt(bytes) });
    if (await settle(entry, opened)) return true;
    const offset = Number(opened.receivedBytes);
    if (offset > bytes) throw new Error(`the upstream holds ${offset} bytes of ${bytes}`);
    heldBytes = sentBytes = offset;
    const sent = await upstream.sendPartial(id, offset, paced(outbox.read(entry, offset)));
    return settle(entry, sent);
  }

  /** The bytes as fast as the rate lets them go; stops in the middle when the link is given up. */
  async function* paced(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      for (let at = 0; at < chunk.length; ) {
        const piece = chunk.subarray(at, Math.min(chunk.length, at + rate.pieceBytes));
        await rate.take(piece.length);
        if (closed || !attached()) throw new Error("the uplink is away");
        yield piece;
        sentBytes += piece.length;
        at += piece.length;
      }
    }
  }

  async function settle(entry: OutboxRecord, state: PartialState): Promise<boolean> {
    const { sequence, digest, bytes } = entry;
    const round = newestRound(entry);
    if (state.receipt?.digest === digest) {
      const { outcome, rule } = state.receipt;
      await outbox.remove(entry);
      events({ level: "info", name: "partial-delivered", round, sequence, bytes, outcome, rule });
      return true;
    }
    if (state.receipt !== undefined) throw new Error(`a receipt for ${state.receipt.digest}`);
    if (state.refusal === undefined) return false;
    const { code, message } = state.refusal;
    await outbox.expire(entry, code, message);
    events({ level: "error", name: "partial-refused", round, sequence, code, message });
    return true;
  }

  async function run(): Promise<void> {
    while (!closed && attached()) {
      let entry: OutboxRecord | undefined;
      try {
        entry = await outbox.next();
        if (entry === undefined) return;
        if (!(await deliver(entry))) throw new Error("the upstream asks for more bytes");
        heldBytes = sentBytes = 0;
        failures = 0;
      } catch (cause) {
        if (closed) return;
        sentBytes = heldBytes;
        await delay(entry, cause);
        return;
      }
    }
  }

  /** The entry stays as it is, and OpenPartial will say where to go on. */
  async function delay(entry: OutboxRecord | undefined, cause: unknown): Promise<void> {
    const { sequence = 0 } = entry ?? {};
    const round = entry === undefined ? "" : newestRound(entry);
    const reason = cause instanceof Error ? cause.message : String(cause);
    events({ level: "warn", name: "partial-delayed", round, sequence, reason });
    failures++;
    // What the disk has spoilt since it was begun would be sent, and sent back, for ever.
    if (entry !== undefined && failures % limits.failuresToCheck === 0) {
      await outbox.check(entry).catch(() => {});
    }
    if (closed) return;
    retry = clock.setTimer(jitteredBackoff(random, failures - 1, backoff), kick);
  }

  function kick(): void {
    if (closed) return;
    retry?.cancel();
    if (running !== undefined) {
      again = true;
      return;
    }
    again = false;
    running = run().finally(() => {
      running = undefined;
      if (again) kick();
    });
  }

  return {
    kick,
    get sentBytes() {
      return sentBytes;
    },
    async close() {
      closed = true;
      retry?.cancel();
      await running;
    },
  };
}

/** What a Partial is sent under: the newest of the cloud's rounds in it. */
function newestRound({ rounds }: OutboxRecord): string {
  return cloudRound(rounds.at(-1) ?? "");
}
