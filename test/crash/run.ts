import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { seededRandom } from "@tributary/proto/host/random.js";
import { type Api, firstOf } from "tributary/cli/api.js";
import { weightsOf } from "../floor/floor.js";
import { until } from "../floor/until.js";
import { type Account, type Entry, judge, type Receipt, receiptReader } from "./account.js";
import { goAway } from "./away.js";
import type { Fuse } from "./bomb.js";
import { type Fleet, membersOf, openFleet, startValues } from "./fleet.js";
import { type Checked, createFold } from "./fold.js";
import type { Life } from "./life.js";
import { type Point, type PointName, points } from "./points.js";

export type RunOptions = {
  readonly point: PointName;
  /** Lives that end at the point. */
  readonly kills: number;
  /** Of the hits at which lives end. */
  readonly seed: number;
  /** A fault that is planted, for the harness to find. */
  readonly plant?: "receipt-early";
  /** Of a round, in milliseconds. */
  readonly deadlineMs?: number;
  /** How long what was receipted may take to arrive in the books at the end, in milliseconds. */
  readonly settleMs?: number;
  /** Ends the run after the life that is on; what it has come to is judged. */
  readonly signal?: AbortSignal;
};

export type PointResult = Account & {
  readonly point: PointName;
  /** Lives that were to end at the point, and lives that did. */
  readonly asked: number;
  readonly kills: number;
  /** What was computed again from the formulas: every model that the session made. */
  readonly checked: Checked;
  /** Models that are not what comes out then, each with what is wrong. */
  readonly modelsWrong: readonly string[];
  readonly elapsedMs: number;
};

const SESSION = "crash";
const grid = { fractionBits: { default: 20, tensors: { b: 12 } }, range: 1 };

/** More than a life gets to. */
const OFFLINE_SITE_ROUNDS = 1_000;
/** The longest that a life may take to come to its end, in milliseconds. */
const LIFE_MS = 120_000;

/** Runs a session through so many lives of the point's tier, and judges what became of it. */
export async function runPoint(options: RunOptions): Promise<PointResult> {
  const { point: name, kills, seed, deadlineMs = 30_000, settleMs = 120_000 } = options;
  const point = points[name];
  const startedMs = performance.now();
  const fleet = await openFleet({ point: name, plant: options.plant });
  try {
    await fleet.api().startSession({
      ...{ name: SESSION, initialModel: "start.0", rounds: 1_000_000, grid, evaluateEvery: 0 },
      ...{ deadlineMs, uploadWindowMs: Math.floor(deadlineMs / 4), absentGraceMs: deadlineMs },
      ...{ failedRoundsMax: 1_000_000, nMax: 1_000, totalMax: 1_000_000 },
      // Nobody trains while the killed tier is away: each life has rounds of its own.
      devicesMin: membersOf(point).length,
      siteRounds: point.siteRounds,
      offlineSiteRounds: point.away ? OFFLINE_SITE_ROUNDS : 0,
      ...(point.buffered !== undefined && {
        aggregation: { kind: "buffered", contributors: point.buffered },
      }),
    });
    await nextModel(fleet);
    await fleet.halt();
    const random = seededRandom(seed);
    const mark = join(fleet.dir, "mark");
    let lives = 0;
    let hits = 0;
    for (; lives < kills && options.signal?.aborted !== true; lives++) {
      const hit = 1 + Math.floor(random.next() * point.hitsMost);
      const fuse = { point: name, hit, mark };
      const life = await fleet.revive(fuse);
      const away = point.away ? goAway(fleet, life, SESSION) : Promise.resolve();
      await Promise.all([endOf(life, `kill ${lives + 1} at ${name}, hit ${hit}`), away]);
      hits += Number(await wentOff(fuse));
    }
    await fleet.revive();
    await nextModel(fleet);
    await fleet.api().stopSession(SESSION);
    const { books, receipts, ...account } = await settle(fleet, settleMs);
    const sums = await checkSums(fleet.api(), point, books, receipts);
    const elapsedMs = performance.now() - startedMs;
    // An interrupted run asked for what it had come to.
    const asked = options.signal?.aborted === true ? lives : kills;
    return { point: name, asked, kills: hits, ...account, ...sums, elapsedMs };
  } finally {
    await fleet.close();
  }
}

async function nextModel(fleet: Fleet): Promise<void> {
  const { head } = await fleet.api().session(SESSION);
  await until(`a model after ${head}`, async () => {
    const view = await fleet.api().session(SESSION);
    if (view.state !== "running") throw new Error(`the session is ${view.state}: ${view.reason}`);
    return view.head !== head;
  });
}

/** Waits for the life to end by its own SIGKILL; anything else is a defect, and shown. */
async function endOf(life: Life, what: string): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(() => resolve("late"), LIFE_MS);
  });
  const end = await Promise.race([life.ended, late]);
  clearTimeout(timer);
  if (end !== "late" && end.killed) return;
  const how = end === "late" ? `did not come in ${LIFE_MS} ms` : "was another end";
  await life.end();
  throw new Error(`${what} ${how}:\n${life.lines().join("\n")}`);
}

/** Whether the bomb itself ended the life: then it left its mark. */
async function wentOff({ mark, point }: Fuse): Promise<boolean> {
  const left = await readFile(mark, "utf8").catch(() => undefined);
  await rm(mark, { force: true });
  return left === point;
}

/** Judges once everything has arrived, or will not any more. */
async function settle(
  fleet: Fleet,
  settleMs: number,
): Promise<Account & { readonly books: readonly Entry[]; readonly receipts: readonly Receipt[] }> {
  const readReceipts = receiptReader(fleet.auditDir);
  const read = async () => {
    const books = await firstOf(fleet.api().contributions(SESSION), Number.POSITIVE_INFINITY);
    const receipts = await readReceipts();
    return { ...judge(SESSION, receipts, books), books, receipts };
  };
  const arrived = until(
    "everything receipted is in the books, and the other way round, and nothing waits",
    async () => {
      const gateways = await firstOf(fleet.api().gateways());
      if (gateways.some((row) => row.outboxPartials > 0)) return false;
      const { lost, unreceipted } = await read();
      return lost.length + unreceipted.length === 0;
    },
    settleMs,
  );
  // What has not come by then is in the account.
  await arrived.catch(() => {});
  return read();
}

/** Computes every model again, from the first on. */
async function checkSums(
  api: Api,
  point: Point,
  books: readonly Entry[],
  receipts: readonly Receipt[],
): Promise<{ readonly checked: Checked; readonly modelsWrong: readonly string[] }> {
  const rounds = await firstOf(api.rounds(SESSION), Number.POSITIVE_INFINITY);
  const fold = createFold({
    session: SESSION,
    start: { id: "start.0", values: startValues(point) },
    members: membersOf(point),
    bitsOf: (coordinate) => (coordinate < point.parameters - 3 ? 20 : 12),
    range: grid.range,
    siteRounds: point.siteRounds > 1 || point.away,
    baseOf: new Map(rounds.map(({ number, base }) => [number, base])),
    books,
    receipts,
  });
  const modelsWrong: string[] = [];
  const models = await firstOf(api.models({ session: SESSION }), Number.POSITIVE_INFINITY);
  for (const { id, parent, sumDigest } of models.toReversed()) {
    const wrong = fold.check({ id, parent, sumDigest, values: await weightsOf(api, id) });
    if (wrong !== undefined) modelsWrong.push(`${id}: ${wrong}`);
  }
  return { checked: fold.checked, modelsWrong };
}
