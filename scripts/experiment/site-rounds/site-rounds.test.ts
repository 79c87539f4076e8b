import assert from "node:assert/strict";
import { test } from "node:test";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import { readMnist } from "../../pilot/mnist/data.js";
import { createCourse } from "./cloud-round.js";
import { DEVICES_PER_SITE, DIGITS_PER_DEVICE, dealFleet } from "./fleet.js";
import { measure } from "./site-rounds.js";

const mnist = await readMnist();

test("each device holds two digits, a site eight, the fleet all of them alike", () => {
  const sites = dealFleet(mnist, 20, 1);
  const counts = new Array<number>(10).fill(0);
  for (const { devices } of sites) {
    const held = devices.map(({ samples }) => new Set(samples.labels));
    assert.deepEqual(
      held.map(({ size }) => size),
      new Array(DEVICES_PER_SITE).fill(DIGITS_PER_DEVICE),
    );
    assert.equal(new Set(held.flatMap((digits) => [...digits])).size, 8);
    for (const { samples } of devices)
      for (const label of samples.labels) counts[label] = (counts[label] ?? 0) + 1;
  }
  assert.deepEqual(counts, new Array(10).fill(40));
});

test("the same seed gives the same model, and site rounds another one than a single round", () => {
  const kernel = loadKernel();
  const modelOf = (siteRounds: number, epochs: number) => {
    const training = { batchSize: 10, learningRate: 0.1 };
    const course = createCourse(
      kernel,
      dealFleet(mnist, 20, 1),
      { siteRounds, epochs },
      training,
      1,
    );
    course.round();
    return course.weights;
  };
  assert.deepEqual(modelOf(2, 1), modelOf(2, 1));
  assert.notDeepEqual(modelOf(2, 1), modelOf(1, 2));
});

test("more site rounds at the same work come no later to an accuracy", async () => {
  const size = { rounds: 3, seeds: 1, samples: 60 };
  const figures = await measure(mnist, size, { progress: async () => {} });
  assert.deepEqual(
    figures.map(({ siteRounds, epochs }) => siteRounds * epochs),
    [10, 10, 10],
  );
  const [one, two, five] = figures.map(({ accuracies }) => accuracies.at(-1) ?? 0);
  assert.ok((one ?? 0) < (two ?? 0) && (two ?? 0) < (five ?? 0), `${one} ${two} ${five}`);
});
