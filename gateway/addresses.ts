import { type Bucket, type BucketBounds, createBucket } from "@tributary/proto/host/bucket.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { networkOf } from "@tributary/proto/host/network.js";
import type { DropReason } from "./drops.js";

export type AddressBounds = {
  /** Connections of one address at a time. */
  readonly connections: number;
  /** Those among them that have not finished their handshake and CONNECT. */
  readonly handshakes: number;
  /** New connections of one address. */
  readonly rate: BucketBounds;
  /** Addresses without a connection whose rate is remembered; the oldest is forgotten. */
  readonly idle: number;
};

/** One connection that was let in. */
export type Visit = {
  /** Its CONNECT was accepted. */
  welcomed(): void;
  left(): void;
};

/** Decides about a connection by the address that it comes from, before a byte of it is read. */
export type Addresses = {
  enter(address: string): Visit | DropReason;
};

type Place = { connections: number; handshakes: number; readonly rate: Bucket };

export function createAddresses(
  bounds: AddressBounds,
  clock: Pick<Clock, "monotonicMs">,
): Addresses {
  const places = new Map<string, Place>();
  /** Those without a connection, the longest so first. */
  const idle = new Map<string, Place>();

  function placeOf(name: string): Place {
    const known = places.get(name) ?? idle.get(name);
    const rate = known?.rate ?? createBucket(bounds.rate, clock);
    return known ?? { connections: 0, handshakes: 0, rate };
  }

  function rest(name: string, place: Place): void {
    places.delete(name);
    idle.delete(name);
    if (place.rate.full) return;
    idle.set(name, place);
    for (const oldest of idle.keys()) {
      if (idle.size <= bounds.idle) break;
      idle.delete(oldest);
    }
  }

  return {
    enter(address) {
      const name = networkOf(address);
      const place = placeOf(name);
      if (place.connections >= bounds.connections) return "address-connections";
      if (place.handshakes >= bounds.handshakes) return "address-handshakes";
      if (place.rate.level < 1) return "address-rate";
      place.rate.spend(1);
      place.connections++;
      place.handshakes++;
      places.set(name, place);
      idle.delete(name);
      let waiting = true;
      let here = true;
      const welcomed = (): void => {
        if (waiting) place.handshakes--;
        waiting = false;
      };
      return {
        welcomed,
        left() {
          if (!here) return;
          here = false;
          welcomed();
          place.connections--;
          if (place.connections === 0) rest(name, place);
        },
      };
    },
  };
}
