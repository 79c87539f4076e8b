import { setTimeout as wait } from "node:timers/promises";
import type { SessionView } from "@tributary/cloud/session-view.js";
import type { RoundRow } from "@tributary/cloud/store/rows.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import type { Api } from "./api.js";
import { CommandFailure } from "./failure.js";
import { cliLimits } from "./limits.js";
import { partOf } from "./metrics.js";
import { shorten } from "./text/table.js";
import { count, duration, metrics, text } from "./text/words.js";
import type { GlobalOptions, World } from "./world.js";

/**
 * Shows a session's rounds as they close, and on a terminal a line of what it does now, until it
 * no longer runs. With `--json` every closed round and the session's end is one line of JSON.
 * Throws when the session failed, or when the cloud stays out of reach.
 */
export async function followSession(
  world: World,
  api: Api,
  id: string,
  { json = false }: GlobalOptions,
): Promise<void> {
  const shown = new Set<string>();
  const live = liveLine(world, json);
  let reachedAtMs = world.nowMs();
  for (;;) {
    const seen = await look(api, id, shown).catch((error: unknown) => {
      const outageMs = world.nowMs() - reachedAtMs;
      if (!isOutage(error) || outageMs > cliLimits.followOutageMs) throw error;
      live.set(`cannot reach the cloud for ${duration(outageMs)}; trying again`);
    });
    if (seen !== undefined) {
      reachedAtMs = world.nowMs();
      const { session, rounds } = seen;
      for (const round of rounds) {
        shown.add(round.id);
        live.clear();
        const means = json ? undefined : await meansOf(api, round);
        world.stdout.write(
          `${means === undefined ? JSON.stringify({ round }) : closedLine(round, means)}\n`,
        );
      }
      if (session.state !== "running") {
        live.clear();
        world.stdout.write(`${json ? JSON.stringify({ session }) : endLine(session)}\n`);
        if (session.state === "failed") {
          throw new CommandFailure(
            "session-failed",
            `session ${id} failed: ${text(session.reason)}.\n` +
              `When the cause is gone, go on with \`tributary session resume ${id}\`.`,
            exitCodes.refused,
          );
        }
        return;
      }
      live.set(activityLine(session, world.nowMs()));
    }
    await wait(cliLimits.followMs);
  }
}

/** The session and, oldest first, its closed rounds that were not shown yet. */
async function look(
  api: Api,
  id: string,
  shown: ReadonlySet<string>,
): Promise<{ readonly session: SessionView; readonly rounds: readonly RoundRow[] }> {
  // The session first: a round that closes in between is then shown by the next look.
  const session = await api.session(id);
  const rounds: RoundRow[] = [];
  for await (const round of api.rounds(id)) {
    if (shown.has(round.id)) break;
    if (round.state !== "open") rounds.push(round);
  }
  return { session, rounds: rounds.reverse() };
}

function isOutage(error: unknown): boolean {
  return error instanceof CommandFailure && error.exitCode === exitCodes.unavailable;
}

/** What a round measured of the model that it made or evaluated; nothing when it did neither. */
async function meansOf(api: Api, round: RoundRow): Promise<Readonly<Record<string, number>>> {
  const id = round.model ?? (round.task === "evaluate" ? round.base : null);
  if (id === null || round.state === "failed") return {};
  const { metrics: all } = await api.model(id);
  return partOf(all, round.task === "evaluate" ? "evaluation" : "training");
}

/** What became of the contributions to a round, and what its model took of earlier ones. */
function contributionsOf({ merged, kept, expired, fromEarlier }: RoundRow): string {
  return [
    `${count(merged)} merged`,
    ...(kept ? [`${count(kept)} kept`] : []),
    `${count(expired)} expired`,
    ...(fromEarlier ? [`${count(fromEarlier)} from earlier rounds`] : []),
  ].join(", ");
}

function closedLine(round: RoundRow, means: Readonly<Record<string, number>>): string {
  const tookMs = (round.closedAtMs ?? round.openedAtMs) - round.openedAtMs;
  const rule = round.rule === null ? "" : ` (${round.rule})`;
  return [
    `round ${round.number}`.padEnd(10),
    round.task.padEnd(8),
    `${round.state}${rule}`.padEnd(12),
    contributionsOf(round),
    `${(tookMs / 1000).toFixed(1)} s`,
    ...(Object.keys(means).length === 0 ? [] : [metrics(means)]),
  ].join("  ");
}

function endLine({ id, state, reason, head, counts }: SessionView): string {
  const why = reason === null || reason === undefined ? "" : ` (${reason})`;
  return `session ${id} ${state}${why}; ${count(counts?.models)} models, newest ${head}`;
}

function activityLine({ activity, round, metrics: means }: SessionView, nowMs: number): string {
  const latest = Object.keys(means ?? {}).length === 0 ? "" : `; last round: ${metrics(means)}`;
  if (round === null) return `${activity}${latest}`;
  const folded = round.gateways.reduce((sum, gateway) => sum + gateway.folded, 0);
  const roster = round.gateways.reduce((sum, gateway) => sum + gateway.roster, 0);
  const left = duration(round.deadlineAtMs - nowMs);
  return (
    `${activity}, round ${round.number}: ${folded} of ${roster} devices, ` +
    `${round.arrived} of ${round.expected} sites, ${left} left${latest}`
  );
}

/** One line at the end of a terminal that is written over; nothing where there is no terminal. */
function liveLine({ stdout }: World, json: boolean): { set(line: string): void; clear(): void } {
  if (!stdout.isTerminal || json) return { set: () => {}, clear: () => {} };
  return {
    set: (line) => stdout.write(`\r\u001b[K${shorten(line, stdout.width - 1)}`),
    clear: () => stdout.write("\r\u001b[K"),
  };
}
