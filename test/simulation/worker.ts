import { parentPort } from "node:worker_threads";
import { simulate } from "./world.js";

/** Simulates the seeds that it is sent, one at a time. */
const port = parentPort;
if (port === null) throw new Error("this is a worker of the simulation: run main.js");
port.on("message", (seed: number) => {
  void simulate(seed).then((outcome) => port.postMessage(outcome));
});
