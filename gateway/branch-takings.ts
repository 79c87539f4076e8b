import { identityText, type PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { BranchRecord, Store } from "./store.js";

/**
 * Which Partial brought which contribution to a round, and who may bring it: what keeps two Partials
 * from bringing the same one, across restarts. It is noted before the Partial is received, so what is
 * noted may still be on its way; it then comes again under the same identity.
 */
export type Takings = {
  /**
   * Whether the round gave the device to this gateway. In whichever life of it: one that came in the
   * place of another brings what gateways below still hold of the round.
   */
  expects(identity: PartialIdentity, device: string): boolean;
  /**
   * Whether another Partial has brought the device's contribution.
   * @param stretch 0, or the first site round of a later stretch
   */
  taken(identity: PartialIdentity, device: string, stretch: number): boolean;
  note(identity: PartialIdentity, devices: readonly string[], stretch: number): void;
  /** How many contributions of a member were durable when the gateway started. */
  receivedOf(gateway: string): number;
};

export async function openTakings(
  store: Pick<Store, "takings" | "received">,
  { round, members }: BranchRecord,
): Promise<Takings> {
  const rosters = new Map(members.map(({ gateway, roster }) => [gateway, new Set(roster)]));
  const bringer = new Map<string, string>();
  const received = new Map<string, number>();
  for (const record of await store.takings(round)) {
    const { stretch = 0 } = record;
    for (const device of record.devices) bringer.set(keyOf(device, stretch), identityText(record));
    // What the round waits for is its first stretch.
    if (stretch > 0) continue;
    if ((await store.received(record)) === undefined) continue;
    const { gateway, devices } = record;
    received.set(gateway, (received.get(gateway) ?? 0) + devices.length);
  }
  return {
    expects: ({ gateway }, device) => rosters.get(gateway)?.has(device) === true,
    taken(identity, device, stretch) {
      const by = bringer.get(keyOf(device, stretch));
      return by !== undefined && by !== identityText(identity);
    },
    note(identity, devices, stretch) {
      for (const device of devices) bringer.set(keyOf(device, stretch), identityText(identity));
    },
    receivedOf: (gateway) => received.get(gateway) ?? 0,
  };
}

function keyOf(device: string, stretch: number): string {
  return `${stretch} ${device}`;
}
