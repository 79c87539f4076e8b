import { runGateway } from "../main.js";

/** A gateway as its own process, for tests that kill it: `run.js CONFIG` prints the port. */
const [, , file] = process.argv;
const gateway = await runGateway({
  file,
  env: {},
  softwareVersion: "0.0.0",
  write: (line) => process.stderr.write(line),
});
process.stdout.write(`${gateway.mqttPort}\n`);
