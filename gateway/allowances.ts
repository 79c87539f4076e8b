import { type BucketBounds, createBucket } from "@tributary/proto/host/bucket.js";
import type { Clock } from "@tributary/proto/host/clock.js";

export type AllowanceBounds = {
  /** MQTT packets of one device, each at a price of 1, and more for what costs more. */
  readonly packets: BucketBounds;
  /** Bytes to and from one device. */
  readonly bytes: BucketBounds;
  /** Messages of one device that are refused. Past it, it is disconnected. */
  readonly refusals: BucketBounds;
  /** Packets of one device that are handled before it is the others' turn. */
  readonly packetsPerTurn: number;
  /** What a connection and a `hello` cost, in packets: each has the gateway greet the device. */
  readonly greetingPrice: number;
  /** Devices that are away and have not yet their full allowance again; the oldest is forgotten. */
  readonly away: number;
};

/** What one device may still do, whatever connection it comes on. */
export type Allowance = {
  /** Packets that may be handled in this turn; 0: none before `waitMs`. */
  readonly packets: number;
  readonly waitMs: number;
  /** Whether it is so far past its bounds that it is not let in. */
  readonly barred: boolean;
  /** Whether nothing of it is spent. */
  readonly whole: boolean;
  spend(packets: number, bytes: number): void;
  /** The device connected, or said hello. */
  greet(): void;
  /** Something of it was refused; false once that has come too often. */
  refuse(): boolean;
};

export type Allowances = {
  /** Of a device that connects. */
  take(device: string): Allowance;
  /** Of a device whose connection ended. */
  giveBack(device: string, allowance: Allowance): void;
  /** Whether a device that would connect is not let in now. */
  barred(device: string): boolean;
};

export function createAllowances(
  bounds: AllowanceBounds,
  clock: Pick<Clock, "monotonicMs">,
): Allowances {
  const here = new Map<string, { readonly allowance: Allowance; connections: number }>();
  /** Those of devices that went with a part of it spent, the longest away first. */
  const away = new Map<string, Allowance>();

  return {
    take(device) {
      const known = here.get(device);
      if (known !== undefined) {
        known.connections++;
        return known.allowance;
      }
      const allowance = away.get(device) ?? createAllowance(bounds, clock);
      away.delete(device);
      here.set(device, { allowance, connections: 1 });
      return allowance;
    },
    giveBack(device, allowance) {
      const known = here.get(device);
      if (known === undefined || --known.connections > 0) return;
      here.delete(device);
      if (allowance.whole) return;
      away.set(device, allowance);
      for (const oldest of away.keys()) {
        if (away.size <= bounds.away) break;
        away.delete(oldest);
      }
    },
    barred: (device) => (here.get(device)?.allowance ?? away.get(device))?.barred ?? false,
  };
}

function createAllowance(bounds: AllowanceBounds, clock: Pick<Clock, "monotonicMs">): Allowance {
  const packets = createBucket(bounds.packets, clock);
  const bytes = createBucket(bounds.bytes, clock);
  const refusals = createBucket(bounds.refusals, clock);
  // Some 30 times a second at most: waking for each single packet would cost more than the packet.
  const worthIt = Math.max(1, Math.floor(bounds.packets.perSecond / 32));
  return {
    get packets() {
      if (bytes.level < 0) return 0;
      return Math.max(0, Math.min(bounds.packetsPerTurn, Math.floor(packets.level)));
    },
    get waitMs() {
      return Math.max(packets.waitMs(worthIt), bytes.waitMs(0));
    },
    get barred() {
      return packets.level < 0 || refusals.level < bounds.refusals.burst / 4;
    },
    get whole() {
      return packets.full && bytes.full && refusals.full;
    },
    spend(spentPackets, spentBytes) {
      packets.spend(spentPackets);
      bytes.spend(spentBytes);
    },
    greet: () => packets.spend(bounds.greetingPrice),
    refuse() {
      refusals.spend(1);
      return refusals.level >= 0;
    },
  };
}
