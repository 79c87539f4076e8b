import type { Partial } from "@tributary/proto/algebra/partial.js";
import type { Fleet } from "./fleet.js";
import type { Model, Root } from "./root.js";
import type { Site } from "./site.js";

/** How a fleet delivers to a root, one round after another. */
export type Course = {
  /** The next round, to its end: the time in which every site that is always in touch delivers once. */
  round(): void;
};

/** When the late site is in touch, and what it delivers then. */
export type Contact = {
  /** In touch in round 1 and every so many rounds after it; 1 is always. */
  readonly every: number;
  /**
   * `stale`: what it made of the model that it fetched when it was last in touch. `fresh`: what it
   * makes, there and then, of the newest model.
   */
  readonly delta: "stale" | "fresh";
};

export type Work = (site: Site, base: Model) => Partial;

/**
 * Rounds that all sites in touch end together (sync and site-memory): one model a round. A stale
 * delta is `every` models old when it goes into a model for the first time.
 */
export function inRounds(root: Root, fleet: Fleet, work: Work, contact: Contact): Course {
  const late = lateDeliveries(fleet.late, work, contact);
  return {
    round() {
      const base = root.head;
      for (const site of fleet.others) root.deliver(work(site, base));
      const partial = late(base);
      if (partial !== undefined) root.deliver(partial);
      root.step();
    },
  };
}

/**
 * Sites that deliver one after another, and a step whenever enough contributors wait (buffered).
 * A site that has delivered takes the head as soon as there is one that it has not trained on.
 */
export function inTurns(
  root: Root,
  fleet: Fleet,
  work: Work,
  contact: Contact,
  contributors: number,
): Course {
  const late = lateDeliveries(fleet.late, work, contact);
  const taken = new Map(fleet.others.map((site) => [site, root.head]));
  const done = new Map<Site, Model>();
  const deliver = (partial: Partial) => {
    root.deliver(partial);
    if (root.waiting < contributors) return;
    root.step();
    for (const site of fleet.others)
      if (!taken.has(site) && done.get(site) !== root.head) taken.set(site, root.head);
  };
  return {
    round() {
      const partial = late(root.head);
      if (partial !== undefined) deliver(partial);
      for (const site of fleet.others) {
        const base = taken.get(site);
        if (base === undefined) continue;
        taken.delete(site);
        done.set(site, base);
        deliver(work(site, base));
      }
    },
  };
}

/** What the late site delivers in each round, given the newest model. */
function lateDeliveries(
  site: Site,
  work: Work,
  { every, delta }: Contact,
): (head: Model) => Partial | undefined {
  let round = 0;
  let made: Partial | undefined;
  return (head) => {
    round++;
    if ((round - 1) % every !== 0) return undefined;
    const before = made;
    made = work(site, head);
    return delta === "fresh" ? made : before;
  };
}
