import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createProgram } from "./program.js";
import type { Output } from "./world.js";

const scratch = mkdtempSync(join(tmpdir(), "tributary-completion-"));
writeFileSync(join(scratch, "my session.yaml"), "");
after(() => rmSync(scratch, { recursive: true, force: true }));

async function scriptFor(shell: string): Promise<string> {
  let text = "";
  const output: Output = {
    write: (part) => {
      text += part;
    },
    isTerminal: false,
    width: 80,
  };
  const world = { env: {}, stdout: output, stderr: output, nowMs: () => 0 };
  await createProgram(world, "1.2.3").parseAsync(["completion", shell], { from: "user" });
  const file = join(scratch, `tributary.${shell}`);
  writeFileSync(file, text);
  return file;
}

const cases: readonly { words: string; offers: readonly string[]; never?: readonly string[] }[] = [
  { words: "tributary ", offers: ["cloud", "session", "--json"], never: ["start"] },
  { words: "tributary ses", offers: ["session"], never: ["model"] },
  { words: "tributary session ", offers: ["start", "list", "show", "--url"], never: ["cloud"] },
  { words: "tributary --json session st", offers: ["start", "stop"], never: ["show"] },
  { words: "tributary session start --f", offers: ["--file", "--fraction", "--follow"] },
  { words: "tributary session start --file my", offers: ["my session.yaml"], never: ["--name"] },
  { words: "tributary model import my", offers: ["my session.yaml"] },
  { words: "tributary session start --name ", offers: [], never: ["--file", "my session.yaml"] },
  { words: "tributary model show ", offers: ["--json"], never: ["list"] },
  { words: "tributary completion ", offers: ["bash", "zsh", "fish"] },
];

/** `optionsUnasked`: whether the shell offers options before a dash is typed. */
function judge(optionsUnasked: boolean, complete: (words: string) => readonly string[]): void {
  for (const { words, offers, never = [] } of cases) {
    const offered = complete(words);
    const asked = optionsUnasked || /-\S*$/.test(words);
    for (const word of offers.filter((offer) => asked || !offer.startsWith("-")))
      assert.ok(offered.includes(word), `${words}: ${offered.join(" ")}`);
    for (const word of never) assert.ok(!offered.includes(word), `${words} offers ${word}`);
  }
}

function isInstalled(shell: string): boolean {
  return spawnSync(shell, ["--version"]).status === 0;
}

test("bash completes commands, options, files and closed sets", async () => {
  const script = await scriptFor("bash");
  // Arguments after the script stand for COMP_WORDS.
  const ask = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tributary
    for word in "\${COMPREPLY[@]}"; do echo "$word"; done`;
  judge(true, (words) =>
    execFileSync("bash", ["-uc", ask, "bash", script, ...words.split(" ")], {
      cwd: scratch,
      encoding: "utf8",
    })
      .split("\n")
      .filter((word) => word !== ""),
  );
});

test("fish completes the same", { skip: !isInstalled("fish") }, async () => {
  const script = await scriptFor("fish");
  judge(false, (words) =>
    execFileSync("fish", ["-c", `source ${script}; complete -C '${words}'`], {
      cwd: scratch,
      encoding: "utf8",
    })
      .split("\n")
      .map((line) => (line.split("\t")[0] ?? "").replaceAll("\\ ", " ")),
  );
});

test("zsh accepts its script", { skip: !isInstalled("zsh") }, async () => {
  execFileSync("zsh", ["-n", await scriptFor("zsh")]);
});
