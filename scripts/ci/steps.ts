import { readFileSync } from "node:fs";
import { join } from "node:path";
import { checkDeadCode } from "./dead-code.js";
import { checkGenerated } from "./generated.js";
import { workspaceFolders } from "./house.js";
import { checkLayers } from "./layers.js";
import { lockFileProblems, strayNames, topLevelNames } from "./tidiness.js";
import { runTool, type ToolResult } from "./tool.js";

export type Step = {
  readonly name: string;
  readonly run: (root: string) => Promise<ToolResult>;
};

/** What `npm run check` checks, in the order in which it reports. None of them needs a network. */
export const steps: readonly Step[] = [
  { name: "types", run: (root) => runTool(root, "tsc", ["-b", "--pretty", "false"]) },
  { name: "format and lint", run: (root) => runTool(root, "biome", biomeArguments) },
  {
    name: "type-aware lint",
    run: (root) => runTool(root, "oxlint", ["--type-aware", "--deny-warnings", "--format", "unix"]),
  },
  { name: "layers", run: async (root) => layers(root) },
  { name: "dead code", run: checkDeadCode },
  { name: ".proto lint", run: (root) => runTool(root, "buf", ["lint"], "proto") },
  { name: "generated code", run: checkGenerated },
  {
    name: "top-level names",
    run: async (root) =>
      listed(strayNames(topLevelNames(root)), "does not belong at the top level"),
  },
  {
    name: "lock file",
    run: async (root) =>
      listed(lockFileProblems(readFileSync(join(root, "package-lock.json"), "utf8"))),
  },
];

const biomeArguments = [
  "ci",
  "--colors=off",
  "--diagnostic-level=warn",
  "--error-on-warnings",
  ".",
];

function layers(root: string): ToolResult {
  const { violations } = checkLayers(root, workspaceFolders(root));
  return listed(violations.map(({ file, line, message }) => `${file}:${line} ${message}`));
}

function listed(problems: readonly string[], suffix = ""): ToolResult {
  const lines = problems.map((problem) => `${problem} ${suffix}`.trimEnd());
  return { ok: problems.length === 0, output: lines.join("\n") };
}
