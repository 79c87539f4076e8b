import { setTimeout as sleep } from "node:timers/promises";
import type { SessionView } from "@tributary/cloud/session-view.js";
import type { ModelRow } from "@tributary/cloud/store/rows.js";
import { type Api, firstOf } from "../cli/api.js";
import type { BufferWatch } from "./buffers.js";
import type { FaultSchedule } from "./faults/schedule.js";
import type { Floor } from "./floor.js";
import type { Mode, SessionSpec } from "./mode.js";
import type { Curve, Progress, ProgressView, SiteProgress } from "./progress/progress.js";

/** How often the session's status is read. */
const POLL_MS = 50;
/** A run that makes no progress for so long has failed. */
const STALL_MS = 120_000;

export type Followed = {
  readonly session: SessionView;
  /** Accuracy of each published model, by model id. */
  readonly accuracies: ReadonlyMap<string, number>;
};

type Following = {
  readonly floor: Floor;
  readonly api: Api;
  readonly mode: Mode;
  readonly view: ProgressView;
  readonly elapsedMs: () => number;
  readonly faults: FaultSchedule | undefined;
  readonly buffers: BufferWatch;
  /** Rejects when a process ended that nobody asked to end. */
  readonly broken: Promise<never>;
};

/** Starts a session and follows it to its end, with faults and a live view. */
export async function followSession(spec: SessionSpec, following: Following): Promise<Followed> {
  const { api, broken } = following;
  const name = spec.params.initialModel.replace(/\.0$/, "");
  await api.importModel(name, Uint8Array.from(spec.initialModel));
  const started = await api.startSession(spec.params);
  return Promise.race([broken, pollUntilEnd(started, spec, following)]);
}

async function pollUntilEnd(
  started: SessionView,
  spec: SessionSpec,
  following: Following,
): Promise<Followed> {
  const { api, elapsedMs, faults, mode } = following;
  const accuracies = new Map<string, number>();
  const losses: number[] = [];
  const startedMs = elapsedMs();
  let session = started;
  let head = session.head;
  let movedMs = startedMs;
  while (session.state === "running") {
    await sleep(POLL_MS);
    const next = await api.session(session.id);
    if (next.round?.id !== session.round?.id || next.counts.models !== session.counts.models) {
      movedMs = elapsedMs();
    }
    session = next;
    if (elapsedMs() - movedMs > STALL_MS) throw new Error(stalled(session));
    if (session.head !== head && spec.isMain) {
      head = session.head;
      const accuracy = await accuracyOf(api, mode, head);
      if (accuracy !== undefined) accuracies.set(head, accuracy);
      else losses.push(...lossOf(await api.model(head)));
    }
    if (spec.isMain) faults?.step(momentOf(session, following.floor));
    const curve: Curve =
      losses.length > 0
        ? { name: "loss", values: losses }
        : { name: "accuracy", values: [...accuracies.values()] };
    following.view.update(progressOf(session, spec, following, curve, elapsedMs() - startedMs));
  }
  await faults?.finish();
  if (session.state !== "finished") {
    throw new Error(
      `session ${session.id} ${session.state}: ${session.reason ?? "no reason given"}`,
    );
  }
  return { session, accuracies };
}

/** The devices' own, of their training; none where they report none. */
function lossOf({ metrics }: ModelRow): number[] {
  return metrics.loss === undefined ? [] : [metrics.loss];
}

function stalled(session: SessionView): string {
  const seconds = STALL_MS / 1000;
  return `session ${session.id} made no progress for ${seconds} s (${session.activity}, round ${session.round?.id ?? "none"})`;
}

async function accuracyOf(api: Api, mode: Mode, model: string): Promise<number | undefined> {
  return mode.accuracy(await downloadModel(api, model));
}

export async function downloadModel(api: Api, model: string): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of api.modelFile(model)) pieces.push(piece);
  return Buffer.concat(pieces);
}

/** Training rounds so far, the open one included: what faults count in. */
function trainingRound(session: SessionView): number {
  return session.counts.models + (session.round?.task === "train" ? 1 : 0);
}

function momentOf(session: SessionView, floor: Floor) {
  return {
    round: trainingRound(session),
    isMidRound(site: number) {
      const gateway = floor.sites[site]?.gateway;
      const member = session.round?.gateways.find((other) => other.gateway === gateway);
      return (
        session.round?.task === "train" &&
        member !== undefined &&
        member.folded > 0 &&
        !member.sealed
      );
    },
  };
}

function progressOf(
  session: SessionView,
  spec: SessionSpec,
  { floor, faults, buffers }: Following,
  curve: Curve,
  elapsedMs: number,
): Progress {
  const members = new Map(session.round?.gateways.map((member) => [member.gateway, member]));
  return {
    // The one that is open, or that comes next.
    round: Math.min(spec.params.rounds ?? 0, session.counts.models + 1),
    rounds: spec.params.rounds ?? 0,
    done: session.counts.models,
    phase: `${session.id}: ${session.activity}`,
    curve,
    contributions: session.counts.merged,
    elapsedMs,
    sites: floor.sites.map((site, index) => ({
      site: site.site,
      link: faults?.isCut(index) === true ? "cut" : "up",
      process: faults?.isKilled(index) === true ? "killed" : "up",
      devices: site.devices.length,
      folded: members.get(site.gateway)?.folded ?? 0,
      asked: members.get(site.gateway)?.offered ?? 0,
      ...waitingAt(buffers, site.site),
    })),
  };
}

function waitingAt(buffers: BufferWatch, site: string): Pick<SiteProgress, "waiting"> {
  const waiting = buffers.newest(site)?.is;
  return waiting === undefined ? {} : { waiting };
}

/** Waits until every device is connected, so that the first round has the whole floor. */
export async function assembled(api: Api, devices: number, broken: Promise<never>): Promise<void> {
  const untilMs = Date.now() + STALL_MS;
  for (;;) {
    const gateways = await Promise.race([broken, firstOf(api.gateways())]);
    const connected = gateways.reduce((sum, { connectedDevices }) => sum + connectedDevices, 0);
    if (connected === devices) return;
    if (Date.now() > untilMs) {
      throw new Error(
        `after ${STALL_MS / 1000} s ${connected} of ${devices} devices are connected`,
      );
    }
    await sleep(POLL_MS);
  }
}

/** Waits until no gateway holds a Partial that the cloud has not receipted. */
export async function drained(api: Api, sites: number, broken: Promise<never>): Promise<void> {
  const limitMs = 30_000;
  const untilMs = Date.now() + limitMs;
  for (;;) {
    const gateways = await Promise.race([broken, firstOf(api.gateways())]);
    const attached = gateways.filter(({ attached: isAttached }) => isAttached);
    const waiting = gateways.reduce((sum, { outboxPartials }) => sum + outboxPartials, 0);
    if (attached.length === sites && waiting === 0) return;
    if (Date.now() > untilMs) {
      throw new Error(
        `after ${limitMs / 1000} s ${attached.length} of ${sites} gateways are attached and ${waiting} Partials wait`,
      );
    }
    await sleep(POLL_MS);
  }
}
