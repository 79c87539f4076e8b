import type { Clock } from "@tributary/proto/host/clock.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { ROOT } from "./config.js";

/**
 * What is above a gateway, as its upstream told. A gateway that is above itself can never reach the
 * root: when that shows before it has once done so, its place is set up wrong, and it fails. Later it
 * is somebody else's change that closed the loop, and the link is only tried again.
 */
export type Ancestry = {
  /** The upstream first; the root last, once it is known. */
  above(): readonly string[];
  heard(path: readonly string[]): void;
  /** The upstream is away: what is above it is not known any more. */
  lost(): void;
  /** Whether the way to the root is whole, as far as this gateway was told. */
  readonly whole: boolean;
  /**
   * Where an upstream is attached and the way ends before the root: the gateway that has no link
   * further up, and since when.
   */
  readonly broken: { readonly gateway: string; readonly sinceMs: number } | undefined;
  loop(message: string): void;
  /** Rejects with `gateway-loop`. */
  readonly failed: Promise<never>;
};

export function createAncestry(clock: Pick<Clock, "monotonicMs">): Ancestry {
  let path: readonly string[] = [];
  let changedMs = clock.monotonicMs();
  let whole = false;
  let rooted = false; // it was whole once
  let fail: (error: TributaryError) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {}); // whoever runs the gateway may listen, or not
  return {
    above: () => path,
    heard(next) {
      if (next.join() !== path.join()) changedMs = clock.monotonicMs();
      path = next;
      // An upstream that tells no path is a cloud from before there were gateways above gateways.
      whole = path.length === 0 || path.at(-1) === ROOT;
      rooted ||= whole;
    },
    lost() {
      path = [];
      whole = false;
    },
    get whole() {
      return whole;
    },
    get broken() {
      const gateway = path.at(-1);
      if (whole || gateway === undefined) return undefined;
      return { gateway, sinceMs: Math.round(clock.monotonicMs() - changedMs) };
    },
    loop(message) {
      if (!rooted) fail(new TributaryError("gateway-loop", message));
    },
    failed,
  };
}
