import type { PlanRefused } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { isCode } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { roundClosed, roundOpened } from "./links.js";
import { createLiveRound, type LiveRound, type RoundTimes } from "./live-round.js";
import { type SessionParams, siteDeadlineMs } from "./params.js";
import { isOwnSite, ownDevicesAt } from "./project-fleet.js";
import { createRoundJournal, type JournalDamage } from "./round-journal.js";
import { makePlan } from "./round-plan.js";
import type { Fleet, SessionEffect } from "./session.js";
import type { SessionWorld } from "./session-world.js";
import type { OpenRound } from "./store/rows.js";

/** The row of a round that opens now, with the gateways that are attached and their devices. */
export async function planRound(
  world: SessionWorld,
  params: SessionParams,
  { round: number, task, base: from }: Extract<SessionEffect, { kind: "open" }>,
): Promise<OpenRound> {
  const { clock, models, packages, gateways, devices } = world;
  const base = await models.base(from);
  if (base === undefined) throw new TributaryError("store-unknown", `no model ${from}`);
  const id = params.package;
  const planned = id === undefined ? undefined : await packages?.planned(id);
  if (id !== undefined && planned === undefined)
    throw new TributaryError("store-unknown", `no package ${id}`);
  const made = makePlan(params, number, task, base, planned?.offered);
  if (!made.ok) throw new TributaryError("config-invalid", `${made.code}: ${made.message}`);
  const rosters: Record<string, string[]> = {};
  const siteRosters: Record<string, string[]> = {};
  const incarnations: Record<string, string> = {};
  for (const gateway of gateways.attachedIds()) {
    const roster = ownDevicesAt(world, params, gateway).slice(0, wireLimits.roster);
    const incarnation = gateways.incarnationOf(gateway);
    if (roster.length === 0 || incarnation === undefined) continue;
    rosters[gateway] = roster;
    incarnations[gateway] = incarnation;
    if (!made.plan.perSite) continue;
    for (const device of roster) {
      const site = devices.siteOf(device);
      if (site === undefined) continue;
      const there = siteRosters[site] ?? [];
      there.push(device);
      siteRosters[site] = there;
    }
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
    kept: 0,
    expired: 0,
    fromEarlier: 0,
    openedAtMs: clock.nowMs(),
    closedAtMs: null,
    plan: made.bytes,
    rosters,
    siteRosters,
    incarnations,
  };
}

export function liveRound(
  { disk, random, gateways, devices }: SessionWorld,
  params: SessionParams,
  row: OpenRound,
  times: RoundTimes,
): LiveRound {
  const { aggregation, absentGraceMs, sitesQuorum } = params;
  const training = row.task === "train";
  const buffers = training && aggregation.kind === "buffered";
  return createLiveRound({
    row,
    journal: createRoundJournal(disk, random, row.id),
    rules: {
      absentGraceMs,
      sitesQuorum,
      keepsFailed: training && aggregation.kind === "site-memory",
      ...(buffers && { bufferMin: aggregation.contributors }),
    },
    times,
    siteOf: (gateway) => gateways.siteOf(gateway) ?? gateway,
    siteOfDevice: (device) => devices.siteOf(device),
  });
}

/** The times of a round that has so long to go, by the monotonic clock. */
export function roundTimes(
  { clock }: Pick<SessionWorld, "clock">,
  params: SessionParams,
  remainingMs: number,
): RoundTimes {
  const deadlineAtMs = clock.monotonicMs() + remainingMs;
  return {
    openedAtMs: deadlineAtMs - params.deadlineMs,
    siteDeadlineAtMs: deadlineAtMs - (params.deadlineMs - siteDeadlineMs(params)),
    deadlineAtMs,
  };
}

/**
 * How long a round that a restart takes up has to go. The wall clock alone knows when it opened, and
 * may be wrong by years: gateways get the grace to come back, and no round gets more than its whole
 * deadline.
 */
function remainingMs(
  { clock }: Pick<SessionWorld, "clock">,
  { deadlineMs, absentGraceMs }: SessionParams,
  { openedAtMs }: Pick<OpenRound, "openedAtMs">,
): number {
  const left = openedAtMs + deadlineMs - clock.nowMs();
  return Math.min(deadlineMs, Math.max(absentGraceMs, left));
}

/** A round that a stop of the process, or a failure, left open, as its journal says it is. */
export async function recallRound(
  world: SessionWorld,
  params: SessionParams,
  opened: OpenRound,
): Promise<LiveRound> {
  const times = roundTimes(world, params, remainingMs(world, params, opened));
  const recalled = liveRound(world, params, opened, times);
  try {
    await recalled.replay();
  } catch (error) {
    await recalled.close().catch(() => undefined);
    throw error;
  }
  return recalled;
}

/**
 * As `recallRound`, for a round that is to be stopped: the values of what it received are of no use any
 * more, so a damaged journal does not keep it open. What cannot be read of it is said, and kept.
 *
 * @param left the round as it is known to this process, whatever its journal says
 */
export async function recallToStop(
  world: SessionWorld,
  params: SessionParams,
  opened: OpenRound,
  left: LiveRound | undefined,
): Promise<LiveRound> {
  try {
    return await recallRound(world, params, opened);
  } catch (error) {
    if (!(error instanceof TributaryError) || error.code !== "journal-corrupt") throw error;
  }
  const times = roundTimes(world, params, remainingMs(world, params, opened));
  const salvaged = liveRound(world, params, opened, times);
  const { path, aside, gaps, unread } = await salvaged.salvage(
    left?.row.id === opened.id ? left.all() : [],
  );
  world.events({
    level: "error",
    name: "journal-damaged",
    session: params.name,
    round: opened.id,
    path,
    aside,
    gaps: gapsIn(gaps),
    partials: salvaged.all().length,
    unread: unread.join(", "),
  });
  return salvaged;
}

/** The rule of a round that was stopped, in words where its journal was damaged. */
export function stopRule({ damage }: Pick<LiveRound, "damage">): string {
  if (damage === undefined) return "stopped";
  const { path, aside, gaps } = damage;
  return `stopped; ${path} was damaged at ${gapsIn(gaps)}: see ${aside}`;
}

const GAPS_SHOWN = 8;

function gapsIn(gaps: JournalDamage["gaps"]): string {
  const shown = gaps
    .slice(0, GAPS_SHOWN)
    .map(({ offset, bytes }) => `byte ${offset} (${bytes} bytes)`);
  const more = gaps.length > GAPS_SHOWN ? [`${gaps.length - GAPS_SHOWN} more places`] : [];
  return [...shown, ...more].join(", ");
}

/**
 * Offers a round to its members, and takes note of those whose link is down. Gives those that came
 * back as another incarnation, which the round does not wait for.
 */
export function tellMembers({ clock, gateways, links }: SessionWorld, live: LiveRound): string[] {
  const nowMs = clock.monotonicMs();
  const members = Object.keys(live.row.rosters);
  const own = members.filter((id) => live.opensFor(id, gateways.incarnationOf(id)));
  live.beginDetached(
    members.filter((gateway) => !gateways.attached(gateway)),
    nowMs,
  );
  for (const gateway of own) {
    const message = gateways.attached(gateway) ? roundOpened(live, gateway, nowMs) : undefined;
    if (message !== undefined) links.send(gateway, message);
  }
  return members.filter((gateway) => !own.includes(gateway));
}

/** The sites that could meet their quorum now, and the devices connected. */
export function fleetNow(world: SessionWorld, params: SessionParams): Fleet {
  const { gateways, devices } = world;
  const sites = new Map<string, number>();
  for (const gateway of gateways.attachedIds())
    for (const [site, count] of devices.sitesAt(gateway))
      if (isOwnSite(world, params, site)) sites.set(site, (sites.get(site) ?? 0) + count);
  const counts = [...sites.values()];
  return {
    sitesReady: counts.filter((count) => count >= params.siteQuorum).length,
    devices: counts.reduce((sum, count) => sum + count, 0),
  };
}

export function reportOpened(
  { events }: Pick<SessionWorld, "events">,
  { id: round, session, task, base, sites, roster }: OpenRound,
  deadlineMs: number,
): void {
  const counts = { gateways: sites, devices: roster };
  const what = { session, round, task, base, ...counts, deadlineMs };
  events({ level: "info", name: "round-opened", ...what });
}

export function reportResumed(
  { events, clock }: SessionWorld,
  { row, state, times }: LiveRound,
): void {
  const { id: round, session } = row;
  const partials = state.partials.length;
  const remainingMs = Math.round(times.deadlineAtMs - clock.monotonicMs());
  events({ level: "info", name: "round-resumed", session, round, partials, remainingMs });
}

export function reportPlanRefused(
  { events }: Pick<SessionWorld, "events">,
  session: string,
  gateway: string,
  { round, code: given, message: words }: PlanRefused,
): void {
  const code = isCode(given) ? given : "unknown";
  const message = words.slice(0, wireLimits.messageChars);
  events({ level: "warn", name: "plan-refused", session, round, gateway, code, message });
}

/** @param counts of contributions, those kept from before included */
export function reportClosed(
  { events, links }: Pick<SessionWorld, "events" | "links">,
  { id: round, session, rosters }: OpenRound,
  outcome: string,
  counts: { readonly merged: number; readonly kept: number; readonly expired: number },
  tookMs: number,
): void {
  for (const gateway of Object.keys(rosters)) links.send(gateway, roundClosed(round, outcome));
  const level = outcome === "failed" || counts.expired > 0 ? "warn" : "info";
  events({ level, name: "round-closed", session, round, outcome, ...counts, tookMs });
}
