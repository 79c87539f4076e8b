import type { Clock } from "@tributary/proto/host/clock.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { createAgenda } from "./agenda.js";
import { createNetwork, type Network } from "./network.js";
import { createMachine, type Life } from "./node.js";

/** A simulated network for tests of links, whose time passes while a test waits. */
export type LinksStage = {
  readonly network: Network;
  machine(name: string): { readonly life: Life; readonly clock: Clock };
  until(what: string, holds: () => boolean): Promise<void>;
};

/** Far more than any test needs. */
const EVENTS = 100_000;

export function createLinksStage(): LinksStage {
  const agenda = createAgenda();
  const weather = { delayLeastMs: 1, delayMostMs: 20, lossRate: 0, lossDelayMs: 0 };
  const silent = { note() {}, bytes() {} };
  const settled = () => new Promise((resolve) => setImmediate(resolve));
  let lives = 0;
  return {
    network: createNetwork(agenda, seededRandom("links"), weather, silent),
    machine(name) {
      const life = { node: name, number: ++lives, alive: true };
      return { life, clock: createMachine(agenda, name, 1).clock(life) };
    },
    async until(what, holds) {
      await settled();
      for (let events = 0; !holds(); events++) {
        if (events === EVENTS || !agenda.step(Number.POSITIVE_INFINITY))
          throw new Error(`waited in vain: ${what}`);
        await settled();
      }
    },
  };
}
