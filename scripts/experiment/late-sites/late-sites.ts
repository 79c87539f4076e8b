import { type Aggregation, aggregationSchema } from "@tributary/cloud/aggregation.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import { Option } from "commander";
import { type Mnist, readMnist } from "../../pilot/mnist/data.js";
import { type Experiment, numberColumns, type Outcome, type World } from "../experiment.js";
import { wholeNumber } from "../options.js";
import { accuracyByDigit, type InkedSamples, inked } from "../softmax.js";
import { type Contact, type Course, inRounds, inTurns, type Work } from "./course.js";
import { DEVICES_PER_SITE, dealFleet, type Fleet, SITES } from "./fleet.js";
import { createRoot, type Root } from "./root.js";
import { sitePartial, training } from "./site.js";

/** Contributions behind one model of the buffered rule: those of two sites. */
const BUFFERED_CONTRIBUTORS = 2 * DEVICES_PER_SITE;
/** Far enough that no delta expires: discounting, not expiry, is what is looked at. */
const MAX_STALENESS = 1_000;

export type Figures = {
  readonly rule: Aggregation["kind"];
  readonly contact: Contact;
  /** Means over the seeds and over the rounds of the last contact period. */
  readonly ownDigits: number;
  readonly otherDigits: number;
  readonly all: number;
  /** The lowest and the highest of the two digits' accuracy, of any round and seed. */
  readonly ownLeast: number;
  readonly ownMost: number;
};

export type Size = {
  readonly rounds: number;
  readonly seeds: number;
  /** Rounds from one contact of the late site to the next. */
  readonly every: number;
  /** Of site memory, in models. */
  readonly halfLife: number;
  /** Training samples of one device; a multiple of 4. */
  readonly samples: number;
};

export const lateSites: Experiment = {
  name: "late-sites",
  summary: "what each rule for late Partials makes of a site that is seldom in touch",
  details: `
    ${SITES} sites of ${DEVICES_PER_SITE} devices train softmax regression on MNIST. One site is in touch every so many
    rounds (--every) and alone owns two digits; each of the others holds four of the other eight.
    What it delivers is "stale" (made of the model that it fetched when it was last in touch) or
    "fresh" (made of the newest model, while it is in touch).

    Fixed: ${training.epochs} local epoch, batches of ${training.batchSize}, learning rate ${training.learningRate}; FedAvg with server step 1; grid
    2^-20; staleness weight (1 + age)^-1/2; the buffered rule makes a model of
    ${BUFFERED_CONTRIBUTORS} contributions.`,
  defaults: { rounds: 200, seeds: 2 },
  options: [
    new Option("--every <n>", "rounds from one contact of the late site to the next")
      .argParser(wholeNumber(2, 1_000))
      .default(10),
    new Option("--half-life <n>", "models after which site memory counts a delta half")
      .argParser(wholeNumber(1, 200))
      .default(10),
    new Option("--samples <n>", "training samples of one device, a multiple of 4")
      .argParser(wholeNumber(4, 1_000, 4))
      .default(300),
  ],
  async run({ rounds, seeds, own }, world) {
    const size = { ...(own as Pick<Size, "every" | "halfLife" | "samples">), rounds, seeds };
    return outcomeOf(size, await measure(await readMnist(), size, world));
  },
};

/** Runs every rule on every seed. The same arguments give the same figures. */
export async function measure(mnist: Mnist, size: Size, world: World): Promise<readonly Figures[]> {
  const test = inked(mnist.test);
  const kernel = loadKernel();
  const rules = rulesOf(size);
  const late: readonly Contact[] = [
    { every: size.every, delta: "stale" },
    { every: size.every, delta: "fresh" },
  ];
  const arms = [
    ...late.flatMap((contact) => rules.map((aggregation): Arm => ({ aggregation, contact }))),
    ...rules.slice(0, 1).map((aggregation): Arm => ({ aggregation, contact: always })),
  ];
  const fleets = Array.from({ length: size.seeds }, (_, at) =>
    dealFleet(mnist, size.samples, at + 1),
  );
  const figures: Figures[] = [];
  for (const [at, arm] of arms.entries()) {
    const looks: Look[] = [];
    for (const [i, fleet] of fleets.entries()) {
      const seed = i + 1;
      const share = (round: number) =>
        (at * size.seeds + seed - 1 + round / size.rounds) / (arms.length * size.seeds);
      const show = (round: number) =>
        world.progress(share(round), 1, `${nameOf(arm)}, seed ${seed}`);
      looks.push(...(await runArm(kernel, arm, fleet, test, { ...size, seed }, show)));
    }
    figures.push(figuresOf(arm, looks));
  }
  return figures;
}

function rulesOf({ halfLife }: Size): readonly Aggregation[] {
  return [
    { kind: "sync", maxStaleness: MAX_STALENESS },
    { kind: "buffered", contributors: BUFFERED_CONTRIBUTORS, maxStaleness: MAX_STALENESS },
    { kind: "site-memory", halfLife },
  ].map((rule) => aggregationSchema.parse(rule));
}

const always: Contact = { every: 1, delta: "fresh" };

type Arm = { readonly aggregation: Aggregation; readonly contact: Contact };

/** Accuracies of one model. */
type Look = { readonly ownDigits: number; readonly otherDigits: number; readonly all: number };

async function runArm(
  kernel: Kernel,
  { aggregation, contact }: Arm,
  fleet: Fleet,
  test: InkedSamples,
  { rounds, every, seed }: Size & { readonly seed: number },
  show: (round: number) => Promise<void>,
): Promise<Look[]> {
  const sites = [...fleet.others, fleet.late];
  const root = createRoot(
    aggregation,
    new Map(sites.map(({ name, devices }) => [name, devices.length])),
  );
  const work: Work = (site, base) => sitePartial(kernel, site, base, seed);
  const course = courseOf(aggregation, root, fleet, work, contact);
  const looks: Look[] = [];
  for (let round = 1; round <= rounds; round++) {
    await show(round);
    course.round();
    if (round > rounds - every) looks.push(lookAt(root, fleet, test));
  }
  return looks;
}

function courseOf(
  aggregation: Aggregation,
  root: Root,
  fleet: Fleet,
  work: Work,
  contact: Contact,
): Course {
  return aggregation.kind === "buffered"
    ? inTurns(root, fleet, work, contact, aggregation.contributors)
    : inRounds(root, fleet, work, contact);
}

function lookAt({ head }: Root, { ownDigits }: Fleet, test: InkedSamples): Look {
  const accuracies = accuracyByDigit(head.weights, test);
  const isOwn = (_: number, digit: number) => ownDigits.includes(digit);
  return {
    ownDigits: mean(accuracies.filter(isOwn)),
    otherDigits: mean(accuracies.filter((value, digit) => !isOwn(value, digit))),
    all: mean(accuracies),
  };
}

function figuresOf({ aggregation, contact }: Arm, looks: readonly Look[]): Figures {
  const own = looks.map(({ ownDigits }) => ownDigits);
  return {
    rule: aggregation.kind,
    contact,
    ownDigits: mean(own),
    otherDigits: mean(looks.map(({ otherDigits }) => otherDigits)),
    all: mean(looks.map(({ all }) => all)),
    ownLeast: Math.min(...own),
    ownMost: Math.max(...own),
  };
}

function outcomeOf(size: Size, figures: readonly Figures[]): Outcome {
  const { rounds, seeds, every, halfLife, samples } = size;
  const share = (value: number) => value.toFixed(2);
  return {
    title: `A site that alone owns two digits and delivers every ${every} rounds; accuracy after ${rounds} rounds`,
    columns: numberColumns([
      "rule",
      "its delta",
      "two digits",
      "least to most",
      "the others",
      "all ten",
    ]),
    rows: figures.map((row) => [
      row.contact.every === 1 ? "always in touch" : row.rule,
      row.contact.every === 1 ? "fresh" : row.contact.delta,
      share(row.ownDigits),
      `${share(row.ownLeast)} to ${share(row.ownMost)}`,
      share(row.otherDigits),
      share(row.all),
    ]),
    notes: [
      `Mean over ${seeds} ${seeds === 1 ? "seed" : "seeds"} and the last ${every} rounds; ${samples} samples a device. A stale delta is made of the model fetched at the last contact: ${every} models old on arrival, ${2 * every} when buffered. Half-life of site memory: ${halfLife} models.`,
    ],
    figures,
  };
}

function nameOf({ aggregation, contact }: Arm): string {
  return contact.every === 1 ? "always in touch" : `${aggregation.kind}, ${contact.delta} deltas`;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
