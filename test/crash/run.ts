import { seededRandom } from "@tributary/proto/host/random.js";
import { type Api, firstOf } from "tributary/cli/api.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import { weightsOf } from "../floor/floor.js";
import { until } from "../floor/until.js";
import { type Account, type Entry, judge, readReceipts } from "./account.js";
import { type Fleet, membersOf, openFleet } from "./fleet.js";
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
  readonly kills: number;
  /** Models whose sum was computed again from the formulas. */
  readonly modelsChecked: number;
  /** Of those, the ones whose sum is another. */
  readonly modelsWrong: readonly string[];
  readonly elapsedMs: number;
};

const SESSION = "crash";
const grid = { fractionBits: { default: 20, tensors: { b: 12 } }, range: 1 };

/** The longest that a life may take to come to its end, in milliseconds. */
const LIFE_MS = 120_000;
/** Values computed again in all: what bounds the models that are checked. */
const VALUES_CHECKED = 8_000_000;

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
    });
    await nextModel(fleet);
    await fleet.halt();
    const random = seededRandom(seed);
    let done = 0;
    for (; done < kills && options.signal?.aborted !== true; done++) {
      const hit = 1 + Math.floor(random.next() * point.hitsMost);
      const life = await fleet.revive({ point: name, hit });
      await endOf(life, `kill ${done + 1} at ${name}, hit ${hit}`);
    }
    await fleet.revive();
    await nextModel(fleet);
    await fleet.api().stopSession(SESSION);
    const account = await settle(fleet, settleMs);
    const sums = await checkSums(fleet.api(), point, account.books);
    const { books: _books, ...judged } = account;
    return {
      point: name,
      kills: done,
      ...judged,
      ...sums,
      elapsedMs: performance.now() - startedMs,
    };
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

/** Judges once everything has arrived, or will not any more. */
async function settle(
  fleet: Fleet,
  settleMs: number,
): Promise<Account & { readonly books: readonly Entry[] }> {
  const read = async () => {
    const books = await firstOf(fleet.api().contributions(SESSION), Number.POSITIVE_INFINITY);
    const receipts = await readReceipts(fleet.auditDir);
    return { ...judge(SESSION, receipts, books), books };
  };
  const arrived = until(
    "everything receipted is in the books, and nothing waits",
    async () => {
      const gateways = await firstOf(fleet.api().gateways());
      return gateways.every((row) => row.outboxPartials === 0) && (await read()).lost.length === 0;
    },
    settleMs,
  );
  // What has not come by then is in the account as lost.
  await arrived.catch(() => {});
  return read();
}

/** Computes the sums of the newest models again, from their bases and the books. */
async function checkSums(
  api: Api,
  point: Point,
  books: readonly Entry[],
): Promise<Pick<PointResult, "modelsChecked" | "modelsWrong">> {
  // What several site rounds compose is no flat sum; `proto/README.md` says what it is.
  if (point.siteRounds > 1) return { modelsChecked: 0, modelsWrong: [] };
  const samples = new Map(membersOf(point).map((member) => [member.device, member.samples]));
  const inModel = new Map<string, Entry[]>();
  for (const entry of books) {
    if (entry.model === null) continue;
    inModel.set(entry.model, [...(inModel.get(entry.model) ?? []), entry]);
  }
  const bitsOf = (coordinate: number) => (coordinate < point.parameters - 3 ? 20 : 12);
  const most = Math.ceil(VALUES_CHECKED / (point.parameters * samples.size));
  let modelsChecked = 0;
  const modelsWrong: string[] = [];
  for (const { id, parent, sumDigest } of await firstOf(api.models({ session: SESSION }), most)) {
    const entries = inModel.get(id) ?? [];
    const rounds = new Set(entries.map(({ round }) => round));
    // A late contribution has another base: then the model is no sum on its parent alone.
    if (parent === null || rounds.size !== 1 || !rounds.has(numberOf(id))) continue;
    const from = startFrom(await weightsOf(api, parent));
    const contributions = entries.map(({ device }) => ({
      device,
      samples: samples.get(device) ?? 0,
    }));
    modelsChecked++;
    const expected = fedAvg(from, numberOf(id), contributions, bitsOf);
    if (expected.sumDigest !== sumDigest) modelsWrong.push(id);
  }
  return { modelsChecked, modelsWrong };
}

function numberOf(model: string): number {
  return Number(model.slice(model.lastIndexOf(".") + 1));
}
