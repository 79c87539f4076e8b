#!/usr/bin/env node
// Starts the compiled command. Plain JavaScript, so that npm can link it before anything is built.
import { existsSync } from "node:fs";

const main = new URL("../dist/cli/main.js", import.meta.url);

if (existsSync(main)) {
  await import(main.href);
} else {
  process.stderr.write(
    "tributary: the command is not built yet; run `npm run build` in the repository\n",
  );
  process.exitCode = 70;
}
