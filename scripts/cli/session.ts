import type { SessionView } from "@tributary/cloud/session-view.js";
import type { RoundRow } from "@tributary/cloud/store/rows.js";
import type { Command } from "commander";
import { firstOf } from "./api.js";
import { wholeNumber } from "./arguments.js";
import { usageFailure } from "./failure.js";
import { followSession } from "./follow.js";
import { type Params, parseAssignment, readSessionFile, withParam } from "./session-file.js";
import { type Column, fields, table } from "./text/table.js";
import { ago, bytes, count, metrics, text, time } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

/** Options of `session start` that set one parameter each. */
const paramOptions = [
  { flags: "--name <id>", path: "name", help: "the session's id" },
  { flags: "--initial-model <id>", path: "initialModel", help: "model of the first round" },
  { flags: "--project <id>", path: "project", help: "its project; default: default" },
  { flags: "--rounds <n>", path: "rounds", help: "training rounds" },
  { flags: "--deadline-ms <n>", path: "deadlineMs", help: "longest time of a round" },
  { flags: "--site-quorum <n>", path: "siteQuorum", help: "updates that a site needs" },
  { flags: "--sites-quorum <n>", path: "sitesQuorum", help: "sites that a round needs" },
  { flags: "--fraction <share>", path: "fraction", help: "share of the devices that is wanted" },
  { flags: "--over-selection <share>", path: "overSelection", help: "further devices asked" },
  {
    flags: "--optimizer <kind>",
    path: "optimizer.kind",
    help: "fedavg, fedavgm, fedadam, fedyogi, fedadagrad",
  },
  { flags: "--epochs <n>", path: "training.epochs", help: "epochs on each device" },
  { flags: "--learning-rate <x>", path: "training.learningRate", help: "of the devices' training" },
  { flags: "--batch-size <n>", path: "training.batchSize", help: "of the devices' training" },
  {
    flags: "--evaluate-every <n>",
    path: "evaluateEvery",
    help: "rounds between evaluations; 0: never",
  },
] as const;

type StartOptions = GlobalOptions & {
  readonly file?: string;
  readonly set?: readonly string[];
  readonly follow?: boolean;
} & Readonly<Record<string, unknown>>;

type FollowOptions = GlobalOptions & { readonly follow?: boolean };

const sessionColumns = (nowMs: number): readonly Column<SessionView>[] => [
  { title: "SESSION", cell: ({ id }) => id },
  { title: "STATE", cell: ({ state }) => state },
  { title: "NOW", cell: ({ activity, state }) => (state === "running" ? activity : "-") },
  { title: "ROUNDS", cell: ({ counts }) => count(counts?.rounds), align: "right" },
  { title: "MODELS", cell: ({ counts }) => count(counts?.models), align: "right" },
  { title: "NEWEST", cell: ({ head }) => text(head) },
  { title: "STARTED", cell: ({ startedAtMs }) => ago(startedAtMs, nowMs) },
];

/** What few rounds have gets a column only where one of these has it: a line has room for so much. */
const roundColumns = (rounds: readonly RoundRow[]): readonly Column<RoundRow>[] => [
  { title: "ROUND", cell: ({ number }) => count(number), align: "right" },
  { title: "TASK", cell: ({ task }) => task },
  { title: "STATE", cell: ({ state, rule }) => (rule ? `${state} (${rule})` : state) },
  { title: "SITES", cell: ({ sites }) => count(sites), align: "right" },
  { title: "DEVICES", cell: ({ roster }) => count(roster), align: "right" },
  { title: "MERGED", cell: ({ merged }) => count(merged), align: "right" },
  ...columnOf(rounds, "KEPT", ({ kept }) => kept),
  { title: "EXPIRED", cell: ({ expired }) => count(expired), align: "right" },
  ...columnOf(rounds, "EARLIER", ({ fromEarlier }) => fromEarlier),
  { title: "MODEL", cell: ({ model }) => text(model) },
];

function columnOf(
  rounds: readonly RoundRow[],
  title: string,
  of: (round: RoundRow) => number,
): readonly Column<RoundRow>[] {
  return rounds.some((round) => of(round) > 0)
    ? [{ title, cell: (round) => count(of(round)), align: "right" }]
    : [];
}

export function addSessionCommands(session: Command, world: World): void {
  addStart(session, world);
  session
    .command("list")
    .description("show the sessions")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const sessions = await firstOf(apiOf(world, options).sessions());
      show(world, options, sessions, () =>
        sessions.length === 0
          ? "no session yet; start one with `tributary session start`\n"
          : table(sessionColumns(world.nowMs()), sessions, world.stdout.width),
      );
    });
  session
    .command("show")
    .description("show a session and its latest rounds")
    .argument("<id>", "the session's id")
    .option("--rounds <n>", "rounds shown, the latest", wholeNumber, 10)
    .option("--follow", "show its rounds as they close, until it ends")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<FollowOptions & { rounds: number }>();
      const api = apiOf(world, options);
      if (options.follow === true) return followSession(world, api, id, options);
      const view = await api.session(id);
      const latest = [...(await firstOf(api.rounds(id), options.rounds))].reverse();
      show(world, options, { ...view, rounds: latest }, () => describe(view, latest, world));
    });
  session
    .command("stop")
    .description("end the open round and stop the session, a failed one too")
    .argument("<id>", "the session's id")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const view = await apiOf(world, options).stopSession(id);
      show(
        world,
        options,
        view,
        () => `session ${id} is ${view.state}; newest model ${view.head}\n`,
      );
    });
  session
    .command("resume")
    .description("go on with a stopped or failed session")
    .argument("<id>", "the session's id")
    .option("--follow", "show its rounds as they close, until it ends")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<FollowOptions>();
      const api = apiOf(world, options);
      const view = await api.resumeSession(id);
      if (options.follow === true) return followSession(world, api, id, options);
      show(world, options, view, () => `session ${id} is ${view.state}, from model ${view.head}\n`);
    });
}

function addStart(session: Command, world: World): void {
  const start = session
    .command("start")
    .description("start a session, from a file, from options, or both")
    .option("--file <file>", "YAML or JSON file with the parameters; options lie over it");
  for (const { flags, help } of paramOptions) start.option(flags, help);
  start
    .option(
      "--set <name=value>",
      "any other parameter, as grid.range=4; may be repeated",
      (value: string, before: readonly string[] | undefined) => [...(before ?? []), value],
    )
    .option("--follow", "show its rounds as they close, until it ends")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<StartOptions>();
      const params = await paramsOf(command, options);
      if (params.name === undefined || params.initialModel === undefined) {
        throw usageFailure(
          "a session needs a name and an initial model: give --name and --initial-model,\n" +
            "or --file. `tributary model import` makes a model from a safetensors file.",
        );
      }
      const api = apiOf(world, options);
      const view = await api.startSession(params);
      if (options.follow === true) return followSession(world, api, view.id, options);
      show(
        world,
        options,
        view,
        () =>
          `session ${view.id} is ${view.state}, from model ${view.head}\n` +
          `see it with \`tributary session show ${view.id} --follow\`\n`,
      );
    });
}

/** The file's parameters with the options laid over them. */
async function paramsOf(command: Command, options: StartOptions): Promise<Params> {
  let params: Params = options.file === undefined ? {} : await readSessionFile(options.file);
  for (const { flags, path } of paramOptions) {
    const option = command.options.find((known) => known.flags === flags);
    const given = option === undefined ? undefined : options[option.attributeName()];
    if (typeof given === "string") {
      const { value } = parseAssignment(`${path}=${given}`);
      // An id such as 7 or `on` stays the text that it is.
      params = withParam(params, path, typeof value === "number" && !isId(path) ? value : given);
    }
  }
  for (const assignment of options.set ?? []) {
    const { path, value } = parseAssignment(assignment);
    params = withParam(params, path, value);
  }
  return params;
}

function isId(path: string): boolean {
  return path === "name" || path === "initialModel";
}

function contributionsOf({ counts, kept }: SessionView): string {
  const waiting = kept?.contributions ?? 0;
  const waits = waiting === 0 ? "" : `, ${count(waiting)} kept`;
  return `${count(counts?.merged)} in a model${waits}, ${count(counts?.expired)} expired`;
}

/** What waits for a later model, and what each model carries on; undefined when there is neither. */
function keptOf({ kept }: SessionView): string | undefined {
  if (kept === undefined || kept.partials + kept.carried === 0) return undefined;
  const waits = `${count(kept.contributions)} contributions in ${count(kept.partials)} Partials`;
  const carried = kept.carried === 0 ? "" : `, ${count(kept.carried)} carried on`;
  return `${waits}${carried} (${bytes(kept.bytes)})`;
}

function describe(view: SessionView, rounds: readonly RoundRow[], { stdout }: World): string {
  const { params, round } = view;
  const open =
    round === null || round === undefined
      ? undefined
      : `${round.number} (${round.task}): ${round.arrived} of ${round.expected} sites`;
  const head = fields([
    ["session", view.id],
    ["project", params?.project === "default" ? undefined : params?.project],
    ["state", view.reason ? `${view.state} (${view.reason})` : view.state],
    ["now", view.state === "running" ? view.activity : undefined],
    ["open round", open],
    ["newest model", view.head],
    ["models", count(view.counts?.models)],
    ["rounds", `${count(view.counts?.rounds)}, ${count(params?.rounds)} training rounds wanted`],
    ["optimizer", params?.optimizer?.kind],
    ["aggregation", params?.aggregation?.kind],
    ["contributions", contributionsOf(view)],
    ["kept", keptOf(view)],
    ["last round", metrics(view.metrics)],
    ["started", time(view.startedAtMs)],
    ["ended", view.endedAtMs === null ? undefined : time(view.endedAtMs)],
  ]);
  return rounds.length === 0
    ? head
    : `${head}\n${table(roundColumns(rounds), rounds, stdout.width)}`;
}
