import { setTimeout as wait } from "node:timers/promises";
import type { ChallengeFault, ChallengeView } from "@tributary/cloud/challenges.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import { type Command, InvalidArgumentError } from "commander";
import { firstOf } from "./api.js";
import { lifetime, wholeNumber } from "./arguments.js";
import { CommandFailure } from "./failure.js";
import { cliLimits } from "./limits.js";
import { type Column, table } from "./text/table.js";
import { ago, count } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

type RunOptions = GlobalOptions & {
  readonly gateway?: string;
  readonly round?: string;
  readonly digest?: string;
  readonly updates?: number | "all";
  readonly wait?: number;
};

/** Adds `challenge run|list|show`. */
export function addChallengeCommands(challenge: Command, world: World): void {
  challenge
    .command("run")
    .description("ask a gateway for signed updates behind one of its Partials")
    .option("--gateway <id>", "the newest Partial of this gateway")
    .option("--round <id>", "the newest one that has contributions to this round")
    .option("--digest <sha256>", "this very one")
    .option("--updates <n|all>", "how many, drawn by chance; default: all", updatesOf)
    .option("--wait <time>", "for its end; default: 30s", lifetime)
    .addHelpText(
      "after",
      `
Of each update the signature, the weight and the values are checked. Of all of
them the sum is made again, to the bit. Ends with 1 when the challenge fails.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<RunOptions>();
      const { gateway, round, digest, updates = "all" } = options;
      const api = apiOf(world, options);
      let view = await api.challenge({
        ...(gateway !== undefined && { gateway }),
        ...(round !== undefined && { round }),
        ...(digest !== undefined && { digest }),
        updates,
      });
      const endMs = performance.now() + (options.wait ?? cliLimits.challengeWaitMs);
      while (view.state === "open" && performance.now() < endMs) {
        await wait(cliLimits.challengeLookMs);
        view = await api.challengeOf(view.id);
      }
      show(world, options, view, () => describe(view, world));
      if (view.state === "failed")
        throw new CommandFailure(
          "challenge-failed",
          `${view.gateway} failed the challenge`,
          exitCodes.refused,
        );
    });
  challenge
    .command("list")
    .description("show the challenges since the cloud started, the newest first")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const challenges = await firstOf(apiOf(world, options).challenges());
      show(world, options, challenges, () =>
        challenges.length === 0
          ? "no challenge yet; ask for one with `tributary challenge run`\n"
          : table(columns(world.nowMs()), challenges, world.stdout.width),
      );
    });
  challenge
    .command("show")
    .description("show a challenge, and what was found")
    .argument("<id>", "the challenge's id")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const view = await apiOf(world, options).challengeOf(id);
      show(world, options, view, () => describe(view, world));
    });
}

function updatesOf(text: string): number | "all" {
  if (text === "all") return text;
  const updates = wholeNumber(text);
  if (updates < 1) throw new InvalidArgumentError("Must be at least 1, or all.");
  return updates;
}

const columns = (nowMs: number): readonly Column<ChallengeView>[] => [
  { title: "CHALLENGE", cell: ({ id }) => id },
  { title: "GATEWAY", cell: ({ gateway }) => gateway },
  { title: "ROUND", cell: ({ round }) => round },
  {
    title: "UPDATES",
    cell: ({ asked, contributors }) => `${count(asked)} of ${count(contributors)}`,
    align: "right",
  },
  { title: "STATE", cell: stateOf },
  { title: "ASKED", cell: ({ askedAtMs }) => ago(askedAtMs, nowMs) },
];

function stateOf({ state, refolded, answered, asked }: ChallengeView): string {
  if (state === "open") return `open, ${count(answered)} of ${count(asked)} came`;
  return state === "passed" && refolded === true ? "passed, sum made again" : state;
}

const faultColumns: readonly Column<ChallengeFault>[] = [
  { title: "DEVICE", cell: ({ device }) => device ?? "-" },
  { title: "ROUND", cell: ({ round }) => round ?? "-" },
  { title: "FOUND", cell: ({ code }) => code },
  { title: "WHAT", cell: ({ message }) => message },
];

function describe(view: ChallengeView, { stdout }: World): string {
  const { id, gateway, round, asked, contributors, faults, faultCount } = view;
  const head = `challenge ${id}: ${stateOf(view)}\n${gateway}, ${round}: ${count(asked)} of ${count(contributors)} updates\n`;
  if (faults.length === 0) return head;
  const more = faultCount - faults.length;
  const rest = more > 0 ? `and ${count(more)} more\n` : "";
  return `${head}\n${table(faultColumns, faults, stdout.width)}${rest}`;
}
