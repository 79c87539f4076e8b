import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { roundOpened } from "./links.js";
import { createLiveRound, type LiveRound } from "./live-round.js";
import type { SessionParams } from "./params.js";
import { createRoundJournal } from "./round-journal.js";
import { makePlan } from "./round-plan.js";
import type { Fleet, SessionEffect } from "./session.js";
import type { SessionWorld } from "./session-world.js";
import type { OpenRound } from "./store/rows.js";

/** The row of a round that opens now, with the gateways that are attached and their devices. */
export async function planRound(
  { clock, models, gateways, devices }: SessionWorld,
  params: SessionParams,
  { round: number, task, base: from }: Extract<SessionEffect, { kind: "open" }>,
): Promise<OpenRound> {
  const base = await models.base(from);
  if (base === undefined) throw new TributaryError("store-unknown", `no model ${from}`);
  const made = makePlan(params, number, task, base);
  if (!made.ok) throw new TributaryError("config-invalid", `${made.code}: ${made.message}`);
  const rosters: Record<string, string[]> = {};
  const incarnations: Record<string, string> = {};
  for (const gateway of gateways.attachedIds()) {
    const roster = devices.connectedAt(gateway).slice(0, wireLimits.roster);
    const incarnation = gateways.incarnationOf(gateway);
    if (roster.length === 0 || incarnation === undefined) continue;
    rosters[gateway] = roster;
    incarnations[gateway] = incarnation;
  }
  return {
    id: made.plan.round,
    session: params.name,
    number,
    task,
    base: from,
    state: "open",
    rule: null,
    model: null,
    sites: Object.keys(rosters).length,
    roster: Object.values(rosters).reduce((sum, roster) => sum + roster.length, 0),
    partials: 0,
    merged: 0,
    expired: 0,
    openedAtMs: clock.nowMs(),
    closedAtMs: null,
    plan: made.bytes,
    rosters,
    incarnations,
  };
}

export function liveRound(
  { disk, random, gateways }: SessionWorld,
  params: SessionParams,
  row: OpenRound,
  deadlineAtMs: number,
): LiveRound {
  return createLiveRound({
    row,
    journal: createRoundJournal(disk, random, row.id),
    absentGraceMs: params.absentGraceMs,
    sitesQuorum: params.sitesQuorum,
    deadlineAtMs,
    siteOf: (gateway) => gateways.siteOf(gateway) ?? gateway,
  });
}

/** Offers a round to its members, and takes note of those whose link is down. */
export function tellMembers({ clock, gateways, links }: SessionWorld, live: LiveRound): void {
  const nowMs = clock.nowMs();
  const members = Object.keys(live.row.rosters);
  live.beginDetached(
    members.filter((gateway) => !gateways.attached(gateway)),
    nowMs,
  );
  for (const gateway of members) {
    const message = gateways.attached(gateway) ? roundOpened(live, gateway, nowMs) : undefined;
    if (message !== undefined) links.send(gateway, message);
  }
}

/** The sites that could meet their quorum now, and the devices connected. */
export function fleetNow({ gateways, devices }: SessionWorld, siteQuorum: number): Fleet {
  const sites = new Map<string, number>();
  for (const gateway of gateways.attachedIds()) {
    const site = gateways.siteOf(gateway) ?? gateway;
    sites.set(site, (sites.get(site) ?? 0) + devices.countAt(gateway));
  }
  const counts = [...sites.values()];
  return {
    sitesReady: counts.filter((count) => count >= siteQuorum).length,
    devices: counts.reduce((sum, count) => sum + count, 0),
  };
}
