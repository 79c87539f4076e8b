import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { repositoryRoot } from "./house.js";
import { testLimits } from "./test-file.js";
import { runTests } from "./test-run.js";

// Stack traces of the compiled tests then point into the TypeScript source.
process.env.NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ""} --enable-source-maps`.trim();

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    root: { type: "string", default: repositoryRoot },
    "file-timeout-ms": { type: "string", default: String(testLimits.fileTimeoutMs) },
  },
});

process.exitCode = await runTests({
  root: values.root,
  patterns: positionals,
  width: availableParallelism(),
  fileTimeoutMs: Number(values["file-timeout-ms"]),
  write: (line) => process.stdout.write(`${line}\n`),
});
