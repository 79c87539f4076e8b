import assert from "node:assert/strict";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { packagesOnly } from "@tributary/device-sdk/package-trainer.js";
import { packageRulesSchema } from "@tributary/device-sdk/packages.js";
import { makeKey, publicJwk, thumbprint } from "@tributary/proto/identity/keys.js";
import { signPackage } from "@tributary/proto/identity/package.js";
import { encodePackageFile } from "@tributary/proto/wire/package.js";
import { buildPackage } from "tributary/cli/package-build.js";
import { fedAvg, startFrom } from "../floor/expected.js";
import { assembled, finished, importModel, openFloor, weightsOf } from "../floor/floor.js";
import { bitsOf, initialValues, layout, sessionParams } from "../floor/sample.js";
import { stepOf } from "../floor/trainer.js";

/** The step trainer of the other tests, as a program of its own; who it is stands in its data folder. */
const program = `
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
${stepOf.toString()}
const { TRIBUTARY_TASK: task, TRIBUTARY_INPUT: from, TRIBUTARY_OUTPUT: to } = process.env;
const { device, samples } = JSON.parse(readFileSync(join(process.env.TRIBUTARY_DATA, "who.json"), "utf8"));
const result = { samples, metrics: task === "train" ? { loss: 1 } : { accuracy: 0.5 } };
writeFileSync(join(to, "result.json"), JSON.stringify(result));
if (task === "train") {
  const { round } = JSON.parse(readFileSync(join(from, "task.json"), "utf8"));
  const number = Number(round.slice(round.lastIndexOf(".") + 1));
  const file = readFileSync(join(from, "model.safetensors"));
  const start = 8 + Number(file.readBigUInt64LE(0));
  for (let i = 0; start + 4 * i < file.length; i++) {
    const at = start + 4 * i;
    file.writeFloatLE(file.readFloatLE(at) + stepOf(device, number, i), at);
  }
  writeFileSync(join(to, "weights.safetensors"), file);
}
`;

test("training code is shipped: uploaded once, cached by gateways, run by who pins its signer, the same model to the bit", async () => {
  const floor = await openFloor();
  try {
    const source = join(floor.dir, "source");
    await mkdir(join(source, "bin"), { recursive: true });
    await writeFile(join(source, "bin", "run.mjs"), program);
    // Run by its path, and not by name of an interpreter: the mode is kept.
    await writeFile(join(source, "train"), `#!/bin/sh\nexec "$NODE" bin/run.mjs\n`);
    await chmod(join(source, "train"), 0o755);
    const described = {
      name: "steps",
      version: 3,
      entryPoints: { train: ["./train"], validate: ["node", "bin/run.mjs"] },
      environment: { NODE: process.execPath },
    };
    await writeFile(join(source, "tributary-package.json"), JSON.stringify(described));
    const key = makeKey("EdDSA");
    const signer = await thumbprint(publicJwk(key));
    const { statement, archive } = await buildPackage(source);
    const signed = encodePackageFile({ statement: await signPackage(statement, key) }, archive);

    const cloud = await floor.cloud();
    await importModel(cloud.api, "start", layout, initialValues);
    const uploaded = await cloud.api.uploadPackage(Uint8Array.from(signed));
    assert.deepEqual([uploaded.id, uploaded.signer], ["steps.3", signer]);

    const settings = { downstream: { listen: { port: 0 } }, absentGraceMs: 60_000 };
    const region = await floor.gateway("region", { upstreamPort: cloud.grpcPort, settings });
    const east = await floor.gateway("east", { upstreamPort: region.downstreamPort ?? 0 });
    const fleet = [
      { device: "press-1", gateway: east, samples: 3 },
      { device: "press-2", gateway: east, samples: 120 },
      { device: "mill-1", gateway: region, samples: 17 },
    ];
    for (const { device, gateway, samples } of fleet) {
      const dataDir = join(floor.dir, "data", device);
      await mkdir(dataDir, { recursive: true });
      await writeFile(join(dataDir, "who.json"), JSON.stringify({ device, samples }));
      await floor.device(device, {
        ...{ site: gateway.name, mqttPort: gateway.mqttPort, trainer: packagesOnly },
        packages: packageRulesSchema.parse({ signers: [signer], dataDir }),
      });
    }
    const guest = await floor.device("guest-1", {
      ...{ site: "east", mqttPort: east.mqttPort, trainer: packagesOnly },
    });
    await assembled(cloud.api, { region: 4 });

    await cloud.api.startSession({
      ...sessionParams,
      ...{ name: "shipped", rounds: 2, package: "steps.3", evaluateEvery: 2, devicesMin: 4 },
    });
    await finished(cloud.api, "shipped");
    let model = startFrom(initialValues);
    for (const round of [1, 2]) {
      const expected = fedAvg(model, round, fleet, bitsOf);
      const id = `shipped.${round}`;
      assert.equal((await cloud.api.model(id)).sumDigest, expected.sumDigest, id);
      assert.deepEqual(await weightsOf(cloud.api, id), expected.values, id);
      model = expected;
    }
    const declined = await guest.event("declined");
    assert.equal(declined.name === "declined" && declined.code, "package-refused");
    for (const gateway of [region, east]) {
      const cached = gateway.events.filter(
        (event) => event.name === "model-cached" && event.model === "steps.3",
      );
      assert.equal(cached.length, 1, `${gateway.name} fetched it once`);
    }
  } finally {
    await floor.close();
  }
});
