import { wrapped } from "../cli/text/wrap.js";
import { type BufferWatch, watchBuffers } from "./buffers.js";
import {
  createFaultSchedule,
  FAULT_ROUNDS_MIN,
  type FaultTarget,
  planFaults,
} from "./faults/schedule.js";
import { type Floor, startFloor } from "./floor.js";
import { assembled, downloadModel, drained, followSession } from "./follow.js";
import type { Mode, ModeResult, SessionSpec } from "./mode.js";
import type { PilotOptions } from "./options.js";
import { outageNote } from "./outage.js";
import type { Processes } from "./processes.js";
import type { ProgressView } from "./progress/progress.js";
import { countContributions, judge, readBooks, roundEntries } from "./report/account.js";
import { readAudit } from "./report/oracle.js";
import type { FaultEntry, PilotReport } from "./report/report.js";

export type PilotRun = {
  readonly options: PilotOptions;
  readonly mode: Mode;
  readonly directory: string;
  readonly processes: Processes;
  readonly view: ProgressView;
  readonly startMs: number;
  readonly elapsedMs: () => number;
};

/** Columns of a plain terminal. */
const NOTE_COLUMNS = 80;

/** Runs the floor from start to stop and says what happened. */
export async function runPilot(run: PilotRun): Promise<PilotReport> {
  const { mode, processes, view, elapsedMs } = run;
  const broken = new Promise<never>((_, reject) => {
    processes.onUnexpectedEnd((name, how, log) =>
      reject(new Error(`${name} ended unasked (${how}); see ${log}`)),
    );
  });
  broken.catch(() => {});
  const floor = await Promise.race([
    broken,
    startFloor(
      {
        ...{ directory: run.directory, secure: run.options.secure },
        ...{ sites: mode.sites, trainerModule: mode.trainerModule },
      },
      processes,
    ),
  ]);
  view.note(
    `cloud, ${floor.sites.length} gateways and ${run.mode.sites.flatMap((s) => s.devices).length} devices are up after ${(elapsedMs() / 1000).toFixed(1)} s`,
  );
  const buffers = watchBuffers(floor.sites, elapsedMs);
  try {
    return await withFloor(run, floor, buffers, broken);
  } finally {
    buffers.stop();
    await floor.close();
  }
}

async function withFloor(
  run: PilotRun,
  floor: Floor,
  buffers: BufferWatch,
  broken: Promise<never>,
): Promise<PilotReport> {
  const { mode, view, elapsedMs } = run;
  const { api } = floor;
  const sessions: string[] = [];
  const accuracies = new Map<string, number>();
  const faults: FaultEntry[] = [];
  let finalModel: Uint8Array | undefined;
  const { outage } = run.options;
  if (outage !== undefined) view.note(wrapped(outageNote(outage), NOTE_COLUMNS).join("\n"));
  await assembled(
    api,
    mode.sites.reduce((sum, site) => sum + site.devices.length, 0),
    broken,
  );
  for (;;) {
    const next = await mode.nextSession(finalModel);
    if (next === undefined) break;
    const spec = outage === undefined ? next : withSiteRounds(next);
    const schedule =
      spec.isMain && run.options.faults && (spec.params.rounds ?? 0) >= FAULT_ROUNDS_MIN
        ? createFaultSchedule(
            planFaults(spec.params.rounds ?? 0, floor.sites.length, outage?.lastsMs),
            floor.sites.map(faultTarget),
            elapsedMs,
            view.note,
          )
        : undefined;
    const following = { floor, api, mode, view, elapsedMs, faults: schedule, buffers, broken };
    const followed = await followSession(spec, following);
    sessions.push(followed.session.id);
    for (const [model, accuracy] of followed.accuracies) accuracies.set(model, accuracy);
    faults.push(...(schedule?.entries ?? []));
    finalModel = await downloadModel(api, followed.session.head);
  }
  if (finalModel === undefined) throw new Error("the mode names no session");
  await drained(api, floor.sites.length, broken);
  view.note("every Partial has its receipt; checking the sums");
  const books = await readBooks(api, sessions);
  buffers.stop();
  await floor.close();
  const audit = await readAudit(floor.auditDir);
  const findings = judge(books, audit);
  const result = await mode.result(finalModel);
  const siteOf = new Map(mode.sites.map(({ gateway, site }) => [gateway, site]));
  const failures = failuresOf(findings, result);
  return {
    mode: mode.name,
    startedAt: new Date(run.startMs).toISOString(),
    wallSeconds: elapsedMs() / 1000,
    seed: run.options.seed,
    passed: failures.length === 0,
    failures,
    exact: findings.exact,
    modelsChecked: findings.modelsChecked,
    sumsChecked: findings.sumsChecked,
    missing: findings.missing,
    doubled: findings.doubled,
    inexact: findings.inexact,
    ...result,
    rounds: roundEntries(books, siteOf, accuracies, run.startMs),
    contributions: countContributions(books, audit),
    sites: mode.siteEntries,
    devices: mode.sites.reduce((sum, site) => sum + site.devices.length, 0),
    faults,
    ...outageEntry(outage),
    buffers: buffers.entries(),
    processes: run.processes.entries(),
    data: mode.provenance,
    ...(run.options.keep ? { directory: run.directory } : {}),
  };
}

/** More than a site comes to in the longest outage of a run. */
const OFFLINE_SITE_ROUNDS = 100;

/** A site that is cut off goes on from its own model. */
function withSiteRounds(spec: SessionSpec): SessionSpec {
  if (!spec.isMain) return spec;
  return { ...spec, params: { ...spec.params, offlineSiteRounds: OFFLINE_SITE_ROUNDS } };
}

function outageEntry(outage: PilotOptions["outage"]): Pick<PilotReport, "outage"> {
  return outage === undefined ? {} : { outage: { ...outage, note: outageNote(outage) } };
}

function faultTarget(site: Floor["sites"][number]): FaultTarget {
  return {
    site: site.site,
    cut: () => site.link.cut(),
    restore: () => site.link.restore(),
    async killAndRestart(downMs) {
      const { pid } = site.gatewayProcess;
      await site.gatewayProcess.end("SIGKILL");
      await new Promise((resolve) => setTimeout(resolve, downMs));
      await site.restartGateway();
      return { pid };
    },
  };
}

function failuresOf(findings: ReturnType<typeof judge>, result: ModeResult): string[] {
  const some = (names: readonly string[]) =>
    names.slice(0, 5).join(", ") + (names.length > 5 ? ", ..." : "");
  const failures: string[] = [];
  if (findings.inexact.length > 0)
    failures.push(`sums that differ from the oracle's: ${some(findings.inexact)}`);
  if (findings.modelsChecked === 0) failures.push("no model's sum could be checked");
  if (findings.missing.length > 0)
    failures.push(`receipted but in no model and not expired: ${some(findings.missing)}`);
  if (findings.doubled.length > 0)
    failures.push(`counted more than once: ${some(findings.doubled)}`);
  if (result.finalAccuracy !== undefined && Number.isNaN(result.finalAccuracy))
    failures.push("the final model is not finite");
  return failures;
}
