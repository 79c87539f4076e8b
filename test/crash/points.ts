/** Where a tier ends itself with SIGKILL, and what of the fleet that takes. */
export type Point = {
  readonly tier: "cloud" | "gateway" | "device";
  /** Whether a gateway stands between those of the two sites and the cloud; then it is what is killed. */
  readonly regional: boolean;
  /** What is done and what is not when the process ends. */
  readonly where: string;
  /** A life ends at one of the first so many hits, drawn at random. */
  readonly hitsMost: number;
  /** Devices at each of the two sites. */
  readonly devices: number;
  /** Values in the model. */
  readonly parameters: number;
  /** Waited before each write to a gateway's journal, in milliseconds, so that updates gather. */
  readonly writeDelayMs: number;
  /** Site rounds in each of the cloud's. */
  readonly siteRounds: number;
  /** Whether the killed gateway's uplink comes and goes: see `goAway`. */
  readonly away: boolean;
  /** Contributions that a round needs, in a session that buffers: what comes after them is late. */
  readonly buffered?: number;
};

const small = {
  ...{ hitsMost: 4, devices: 2, parameters: 18, writeDelayMs: 0, siteRounds: 1 },
  ...{ regional: false, away: false },
};
/** So many values that four updates outweigh a checkpoint, and more devices than that. */
const gathered = { ...small, hitsMost: 2, devices: 8, parameters: 1_024, writeDelayMs: 40 };
/** A model of three chunks. */
const chunked = { ...small, hitsMost: 7, devices: 1, parameters: 140_000 };
/** The first site makes the model, and the other one's Partial is late. */
const tardy = { ...small, buffered: 2 };

const table = {
  "before-append": {
    tier: "gateway",
    where: "an update has come whole, nothing of it is in the round's journal",
    ...small,
  },
  "mid-append": {
    tier: "gateway",
    where: "half of the update's frame is in the journal",
    ...small,
  },
  "after-append": {
    tier: "gateway",
    where: "the update is durable, its receipt is not sent",
    ...small,
  },
  "mid-checkpoint": {
    tier: "gateway",
    where: "half of the pieces of a checkpoint's frame are in the journal",
    ...gathered,
  },
  "mid-seal": {
    tier: "gateway",
    where: "the Partial's file is in the outbox, the index does not name it",
    ...small,
    hitsMost: 2,
  },
  "after-site-round": {
    tier: "gateway",
    where: "a site round's state is durable, the index still has the round before it",
    ...small,
    siteRounds: 3,
  },
  "before-open": {
    tier: "gateway",
    where: "the Partial is sealed and not announced",
    ...small,
    hitsMost: 2,
  },
  "mid-upload": {
    tier: "gateway",
    where: "half of the Partial's bytes have left",
    ...small,
    hitsMost: 2,
  },
  "after-delivery": {
    tier: "gateway",
    where: "the cloud's receipt has come, the outbox still holds the Partial",
    ...small,
    hitsMost: 2,
  },
  "after-seal": {
    tier: "gateway",
    where: "the composed Partial is in the outbox, the state of its site rounds is there, too",
    ...small,
    hitsMost: 2,
    siteRounds: 3,
  },
  "after-stretch": {
    tier: "gateway",
    where: "a further stretch's Partial is in the outbox, the state is as it was before",
    ...small,
    hitsMost: 2,
    away: true,
  },
  "mid-taking": {
    tier: "gateway",
    where: "the file of a Partial from below is in the outbox, the index does not name it",
    ...small,
    regional: true,
  },
  "after-taking": {
    tier: "gateway",
    where: "a Partial from below is durable, its receipt is not sent",
    ...small,
    regional: true,
  },
  "mid-merge": {
    tier: "gateway",
    where: "the sum's file is in the outbox, the index names what it sums",
    ...small,
    hitsMost: 2,
    regional: true,
  },
  "after-merge": {
    tier: "gateway",
    where: "the index names the sum, the files of what it sums are there, too",
    ...small,
    hitsMost: 2,
    regional: true,
  },
  "after-commit": {
    tier: "cloud",
    where: "a Partial, a round's opening or its end is durable and nobody has been told",
    ...tardy,
    hitsMost: 8,
  },
  "mid-late": {
    tier: "cloud",
    where: "a late Partial's file is there, its row is not",
    ...tardy,
    hitsMost: 2,
  },
  "after-late": {
    tier: "cloud",
    where: "a late Partial's row is there, its receipt is not sent",
    ...tardy,
    hitsMost: 2,
  },
  "mid-step": {
    tier: "cloud",
    where: "after the model's file, after the optimiser's state, or before the transaction",
    ...small,
    hitsMost: 6,
  },
  "mid-download": {
    tier: "device",
    where: "a chunk of the model has come, others have not",
    ...chunked,
  },
  "mid-slot-write": {
    tier: "device",
    where: "half of the slot's temporary file is written",
    ...small,
    hitsMost: 2,
  },
  "after-slot-write": {
    tier: "device",
    where: "the slot holds the update, no begin is sent",
    ...small,
    hitsMost: 2,
  },
  "mid-send": {
    tier: "device",
    where: "a chunk of the update is sent, its receipt has not come",
    ...small,
    hitsMost: 2,
  },
  "before-forget": {
    tier: "device",
    where: "the receipt has come, the slot still holds the update",
    ...small,
    hitsMost: 2,
  },
} as const satisfies Readonly<Record<string, Point>>;

export type PointName = keyof typeof table;

export const points: Readonly<Record<PointName, Point>> = table;
export const pointNames = Object.keys(table) as readonly PointName[];

export function isPointName(name: string): name is PointName {
  return Object.hasOwn(table, name);
}
