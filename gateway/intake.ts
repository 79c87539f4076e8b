import { parameterCount } from "@tributary/proto/algebra/layout.js";
import {
  type Contributor,
  checkComparable,
  contributionKey,
  refuseOverlap,
  roundsOf,
  type Partial as Sum,
} from "@tributary/proto/algebra/partial.js";
import { identityText, type PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { Announcement, Destination, PartialReceipt } from "@tributary/proto/tier/inbox.js";
import { cloudRound, splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { noRoom } from "./admit.js";
import type { Branches, BranchView } from "./branches.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import type { Forwarding, Outbox } from "./outbox.js";
import type { Storage } from "./storage.js";
import type { Store, TakingRecord } from "./store.js";

export type IntakeOptions = {
  readonly store: Pick<Store, "received" | "putTakings">;
  readonly outbox: Pick<Outbox, "receive">;
  readonly branches: Pick<Branches, "view" | "received" | "refused">;
  readonly storage: Pick<Storage, "fits" | "state">;
  /** Something may be shipped. */
  readonly onKept: () => void;
  readonly events: GatewayEvents;
};

/** Contributions to a round of the cloud's: with its first stretch of site rounds, or a later one. */
type Part = {
  readonly round: string;
  /** 0 for the first; else the first site round of a later stretch. */
  readonly stretch: number;
  readonly contributors: readonly Contributor[];
};

/**
 * Takes Partials of gateways below into the outbox. A receipt says `kept`: the Partial is durable
 * here, and this gateway answers for it from now on.
 */
export function createIntake(options: IntakeOptions): Destination {
  const { store, outbox, branches, events } = options;
  const refusals = new Map<string, { readonly digest: string; readonly refusal: Refusal }>();

  async function take(
    { identity, digest }: Announcement,
    partial: Sum,
    bytes: number,
  ): Promise<Verdict<{ readonly receipt: PartialReceipt }>> {
    const parts = partsOf(partial);
    const admitted = judge(branches, identity, partial, parts);
    if (!admitted.ok) return admitted;
    if (!options.storage.fits(bytes)) return refuse("storage-full", noRoom(options.storage));
    // First who brings what, then the Partial: noted alone it would only come again.
    const noted: TakingRecord[] = [];
    for (const { round, stretch, contributors } of parts) {
      const view = branches.view(round);
      if (view === undefined) continue;
      const devices = contributors.map(({ device }) => device);
      view.takings.note(identity, devices, stretch);
      noted.push({ round, ...identity, ...(stretch > 0 && { stretch }), devices });
    }
    if (noted.length > 0) await store.putTakings(noted);
    await outbox.receive(partial, identity, digest, admitted.forwarding);
    const { gateway } = identity;
    // What a round waits for is its first stretch.
    const first = noted.filter(({ stretch }) => stretch === undefined);
    const counts = new Map(first.map(({ round, devices }) => [round, devices.length]));
    const contributors = partial.contributors.length;
    const round = parts.at(-1)?.round ?? "";
    events({ level: "info", name: "partial-received", round, gateway, contributors, bytes });
    branches.received(gateway, counts);
    options.onKept();
    return { ok: true, receipt: { digest, outcome: "kept", rule: "" } };
  }

  return {
    async settled(identity) {
      const refused = refusals.get(identityText(identity));
      if (refused !== undefined) {
        const { digest, refusal } = refused;
        return { digest, state: { receivedBytes: 0, refusal } };
      }
      const digest = await store.received(identity);
      if (digest === undefined) return undefined;
      const receipt = { digest, outcome: "kept", rule: "" } as const;
      return { digest, state: { receivedBytes: 0, receipt } };
    },
    // A round that is forgotten, or that another gateway was given in this one's place, is known above.
    knowsRound: async () => true,
    hasRoom: (bytes) => options.storage.fits(bytes),
    deliver: (announcement, partial) => take(announcement, partial, announcement.totalBytes),
    async recordRefusal({ identity, digest, round }, refusal) {
      const { code, message } = refusal;
      const { gateway } = identity;
      events({ level: "warn", name: "partial-refused-below", round, gateway, code, message });
      refusals.set(identityText(identity), { digest, refusal });
      for (const oldest of refusals.keys()) {
        if (refusals.size <= limits.refusalsBelow) break;
        refusals.delete(oldest);
      }
      branches.refused(gateway, round);
    },
  };
}

/** The contributors of each round, oldest round first. */
function partsOf(partial: Sum): Part[] {
  return roundsOf(partial).map((id) => ({
    round: cloudRound(id),
    stretch: splitNumberedId(id)?.site ?? 0,
    contributors: partial.contributors.filter(({ round }) => round === id),
  }));
}

/** Whether a Partial from below may be counted, and how it travels on. */
function judge(
  branches: Pick<Branches, "view">,
  identity: PartialIdentity,
  partial: Sum,
  parts: readonly Part[],
): Verdict<{ readonly forwarding: Forwarding }> {
  const views: BranchView[] = [];
  for (const part of parts) {
    const view = branches.view(part.round);
    if (view === undefined) continue;
    const verdict = judgeRound(view, identity, partial, part);
    if (!verdict.ok) return verdict;
    views.push(view);
  }
  const totalMax = views.reduce((least, { plan }) => Math.min(least, plan.totalMax), Infinity);
  if (Number(partial.weight) > totalMax)
    return refuse("total-overflow", `${partial.weight} samples, past NMax ${totalMax}`);
  // With a round whose plan is not known here it travels alone: its own weight is the most.
  if (views.length < parts.length)
    return { ok: true, forwarding: { totalMax: Number(partial.weight), perSite: true } };
  const perSite = views.some(({ plan }) => plan.perSite);
  const open = parts.findLast(({ round, stretch }) => stretch === 0 && branches.view(round)?.open);
  const held = open === undefined ? {} : { held: open.round };
  return { ok: true, forwarding: { totalMax, perSite, ...held } };
}

function judgeRound(
  { plan, takings }: BranchView,
  identity: PartialIdentity,
  partial: Sum,
  { contributors, stretch }: Part,
): Verdict<object> {
  const comparable = checkComparable(expectedOf(plan), partial);
  if (!comparable.ok) return comparable;
  const strangers = contributors.filter(({ device }) => !takings.expects(identity, device));
  if (strangers.length > 0) {
    const named = strangers.slice(0, 5).map(({ device }) => device);
    const who = identity.gateway;
    return refuse("not-in-roster", `${plan.round} did not give ${named.join(", ")} to ${who}`);
  }
  const heavy = contributors.find(({ samples }) => samples > plan.nMax);
  if (heavy !== undefined)
    return refuse("bad-sample-count", `${heavy.device}: ${heavy.samples} samples, past nMax`);
  const overlap = contributors.filter(({ device }) => takings.taken(identity, device, stretch));
  return overlap.length > 0 ? refuseOverlap(overlap.map(contributionKey)) : { ok: true };
}

function expectedOf(plan: Plan) {
  const length = plan.task === "evaluate" ? 0 : parameterCount(plan.layout);
  return {
    base: plan.base.model,
    baseDigest: plan.base.digest,
    grid: plan.grid,
    layout: plan.layout,
    sum: { length },
  };
}
