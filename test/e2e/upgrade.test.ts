import assert from "node:assert/strict";
import { cp, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { openEmbedded } from "@tributary/cloud/store/embedded.js";
import { createUpstream } from "@tributary/gateway/upstream.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { openSetClock } from "../floor/clock.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import { assembled, finished, mergedBy, openFloor, weightsOf } from "../floor/floor.js";
import { bitsOf, initialValues } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";

/** See its README.md for what is in it, and how it is made. */
const fixture = fileURLToPath(new URL("../../fixtures/upgrade/data", import.meta.url));

type Facts = {
  readonly madeAtMs: number;
  readonly fleet: readonly {
    readonly device: string;
    readonly site: string;
    readonly samples: number;
  }[];
};
type Value = string | number | boolean | null | { readonly base64: string };
type Statement = { readonly statement: string; readonly parameters: readonly Value[] };

/** Makes the cloud's store again, as the earlier release wrote it. */
async function restoreStore(dataDir: string): Promise<void> {
  const sql = await openEmbedded(dataDir);
  const text = await readFile(join(fixture, "store.jsonl"), "utf8");
  for (const line of text.trim().split("\n")) {
    const statements = JSON.parse(line) as readonly Statement[];
    await sql.write("durable", async (query) => {
      for (const { statement, parameters } of statements)
        await query(statement, parameters.map(storedValue));
    });
  }
  await sql.close();
}

function storedValue(value: Value): unknown {
  return value !== null && typeof value === "object" && "base64" in value
    ? new Uint8Array(Buffer.from(value.base64, "base64"))
    : value;
}

test("a running site goes on under a new release: what was receipted ends in one model", async () => {
  const facts = JSON.parse(await readFile(join(fixture, "facts.json"), "utf8")) as Facts;
  const { fleet } = facts;
  const floor = await openFloor();
  try {
    await mkdir(join(floor.dir, "devices"));
    for (const part of ["cloud", "gw-a", "gw-b", "devices/press-3"])
      await cp(join(fixture, part), join(floor.dir, part), { recursive: true });
    await restoreStore(join(floor.dir, "cloud"));

    // An upgrade takes a minute; the round's deadline is days away, and was written down as a date.
    const clock = openSetClock(facts.madeAtMs + 60_000);
    const cloud = await floor.cloud({ clock });
    const sites = new Map<string, number>();
    const gateways = [];
    for (const site of ["a", "b"]) {
      // gRPC measures its deadlines by the computer's own clock.
      const upstream = createUpstream(`127.0.0.1:${cloud.grpcPort}`, systemClock());
      const gateway = await floor.gateway(`gw-${site}`, {
        ...{ site, upstreamPort: cloud.grpcPort },
        parts: { clock, upstream },
      });
      gateways.push(gateway);
      sites.set(site, gateway.mqttPort);
    }
    const [a, b] = gateways;
    await a?.event("round-resumed", { round: "s.2", contributors: 2 });
    await b?.event("partial-delivered", { round: "s.2", outcome: "merged" });

    const trainers = new Map(fleet.map((member) => [member.device, createStepTrainer(member)]));
    for (const { device, site } of fleet) {
      const trainer = trainers.get(device);
      assert.ok(trainer);
      const place = { site, mqttPort: sites.get(site) ?? 0, trainer };
      const started = await floor.device(device, place);
      if (device === "press-3") await started.event("started", { held: "s.2" });
    }
    await assembled(cloud.api, { "gw-a": 3, "gw-b": 1 });
    await finished(cloud.api, "s");

    const all = fleet.map(({ device }) => device).sort();
    assert.deepEqual(
      await mergedBy(cloud.api, "s"),
      [1, 2, 3].map((round) => [round, all]),
    );
    let model = startFrom(initialValues);
    for (const round of [1, 2, 3]) {
      const expected = fedAvg(model, round, fleet, bitsOf);
      assert.equal((await cloud.api.model(`s.${round}`)).sumDigest, expected.sumDigest);
      assert.deepEqual(await weightsOf(cloud.api, `s.${round}`), expected.values);
      model = expected;
    }
    for (const { device } of fleet)
      assert.deepEqual(trainers.get(device)?.asked, ["s.3"], `${device} trained for s.2 again`);
    assert.equal(cloud.count("optimizer-reset"), 0);
  } finally {
    await floor.close();
  }
});
