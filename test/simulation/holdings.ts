import { decodePartial } from "@tributary/proto/algebra/frame.js";
import type { PartialState } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { type PartialIdentity, readIdentity } from "@tributary/proto/tier/identity.js";
import type { Service } from "@tributary/proto/tier/service.js";
import type { Hardware } from "./hardware.js";
import { splitRound } from "./site-history.js";

/**
 * Who answers for what was receipted: the gateway that gave a device its receipt, until what is above
 * has receipted a Partial with that contribution. What a gateway that is replaced answers for is lost
 * with its hardware, and nothing else is. Made from receipts alone, of no gateway's files or words.
 */
export type Holdings = {
  /** A device has a receipt that this hardware gave. */
  receipted(by: Hardware, round: string, device: string): void;
  /** Site rounds of one of the cloud's rounds, both included, are one Partial here now. */
  composed(by: Hardware, round: string, first: number, newest: number): void;
  /** First site rounds of what a gateway composed in one of the cloud's rounds. */
  stretches(gateway: string, round: string): readonly number[];
  /** Where an incarnation of a gateway is. */
  named(incarnation: string, hardware: Hardware): void;
  /** A service of a tier, overheard. @param by undefined for the cloud's, which is never replaced */
  overheard(service: Service, by: Hardware | undefined): Service;
  /** Whether all who answer for what a device gave are gone. @param round as the device knows it */
  lost(round: string, device: string): boolean;
};

const THE_CLOUD = "cloud";

/** What site rounds came to: the contributions of a stretch have the round of its first. */
type Composed = {
  readonly by: Hardware;
  readonly round: string;
  readonly first: number;
  readonly newest: number;
};

export function createHoldings(): Holdings {
  const incarnations = new Map<string, Hardware>();
  /** Who gave a device its receipt for a site round. */
  const givers = new Map<string, Set<Hardware>>();
  const stretches: Composed[] = [];
  /** By contribution: who answers for it, and who no longer does. */
  const holders = new Map<string, Set<Hardware | typeof THE_CLOUD>>();
  const former = new Map<string, Set<Hardware>>();

  function setOf<T>(sets: Map<string, Set<T>>, key: string): Set<T> {
    const set = sets.get(key) ?? new Set();
    sets.set(key, set);
    return set;
  }

  async function handOver(identity: PartialIdentity, to: Hardware | undefined): Promise<void> {
    const from = incarnations.get(identity.incarnation);
    if (from === undefined) throw new Error(`nobody is ${identity.incarnation}`);
    const name = String(identity.sequence).padStart(16, "0");
    // It stays there until its gateway has heard the receipt, which is on its way only now.
    const path = `outbox/${name}.partial`;
    if (!(await from.disk.exists(path))) return; // this receipt has come before
    const read = decodePartial(await from.disk.readFile(path));
    if (!read.ok) throw new Error(`${from.gateway} has a receipt for what is no Partial`);
    for (const { round, device } of read.partial.contributors) {
      const key = `${round} ${device}`;
      setOf(former, key).add(from);
      const now = setOf(holders, key);
      now.delete(from);
      if (to === undefined || !former.get(key)?.has(to)) now.add(to ?? THE_CLOUD);
    }
  }

  return {
    receipted(by, round, device) {
      const key = `${round} ${device}`;
      if (splitRound(round).site !== undefined) setOf(givers, key).add(by);
      else if (!former.get(key)?.has(by)) setOf(holders, key).add(by);
    },
    composed(by, round, first, newest) {
      stretches.push({ by, round, first, newest });
    },
    stretches: (gateway, round) =>
      stretches
        .filter((one) => one.by.gateway === gateway && one.round === round)
        .map(({ first }) => first),
    named(incarnation, hardware) {
      incarnations.set(incarnation, hardware);
    },
    overheard(service, by) {
      const heard = (identity: PartialIdentity | undefined, state: PartialState) => {
        if (identity !== undefined && state.receipt !== undefined) void handOver(identity, by);
      };
      return {
        ...service,
        async openPartial(request) {
          const answer = await service.openPartial(request);
          if (answer.ok) heard(readIdentity(request.id), answer.state);
          return answer;
        },
        async sendPartial(messages) {
          let identity: PartialIdentity | undefined;
          async function* passed() {
            for await (const message of messages) {
              identity ??= readIdentity(message.id);
              yield message;
            }
          }
          const answer = await service.sendPartial(passed());
          if (answer.ok) heard(identity, answer.state);
          return answer;
        },
      };
    },
    lost(round, device) {
      const { cloud, site } = splitRound(round);
      if (site === undefined) return isLost(`${round} ${device}`);
      const by = [...(givers.get(`${round} ${device}`) ?? [])];
      const stretch = stretches.find(
        (one) =>
          one.round === cloud && one.first <= site && site <= one.newest && by.includes(one.by),
      );
      // A kill may come between what is durable and what is said of it: then any that it can be.
      const firsts = stretch === undefined ? numbersTo(site) : [stretch.first];
      const keys = firsts.map((first) => `${first > 1 ? `${cloud}.${first}` : cloud} ${device}`);
      const handed = keys.some((key) => holders.has(key));
      const gone = by.length > 0 && by.every((giver) => giver.gone);
      return keys.some(isLost) || (gone && (stretch === undefined || !handed));
    },
  };

  function isLost(key: string): boolean {
    const now = [...(holders.get(key) ?? [])];
    return now.length > 0 && now.every((by) => by !== THE_CLOUD && by.gone);
  }
}

function numbersTo(last: number): number[] {
  return Array.from({ length: last }, (_, at) => at + 1);
}
