import { exitCodes } from "@tributary/proto/host/process.js";
import { run } from "./run.js";
import type { Output } from "./world.js";

const helpWidthMax = 100;

function outputOf(stream: NodeJS.WriteStream): Output {
  return {
    write: (text) => void stream.write(text),
    isTerminal: stream.isTTY,
    width: Math.min(helpWidthMax, stream.columns ?? 80),
  };
}

// A reader that has seen enough, as in `tributary model list | head -1`, is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(exitCodes.ok);
  throw error;
});

const exitCode = await run(process.argv.slice(2), {
  env: process.env,
  stdout: outputOf(process.stdout),
  stderr: outputOf(process.stderr),
  nowMs: () => Date.now(),
});
// A tier that a signal or a failure ended has set its own.
process.exitCode ??= exitCode;
