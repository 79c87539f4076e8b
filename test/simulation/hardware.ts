import { type MemoryIndex, memoryIndex } from "@tributary/gateway/testing/memory-store.js";
import { type MemoryDisk, memoryDisk } from "@tributary/proto/host/memory-disk.js";
import type { Random } from "@tributary/proto/host/random.js";

/** What a gateway keeps its data on. Once it is replaced nobody sees it again. */
export type Hardware = {
  readonly gateway: string;
  readonly disk: MemoryDisk;
  readonly index: MemoryIndex;
  readonly gone: boolean;
};

/** A place for one gateway's hardware. */
export type Rack = {
  readonly now: Hardware;
  /** New hardware, with nothing on it. */
  replace(): void;
};

export function createRack(gateway: string, random: Random): Rack {
  const make = () => ({ gateway, disk: memoryDisk({ random }), index: memoryIndex(), gone: false });
  let now = make();
  return {
    get now() {
      return now;
    },
    replace() {
      now.gone = true;
      now = make();
    },
  };
}
