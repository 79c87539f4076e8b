import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { runCloud } from "./main.js";
import { temporaryDir } from "./testing/cloud.js";

const options = { env: {}, softwareVersion: "1.2.3", write: () => {} };

test("a cloud starts from its file and environment, serves both sides and keeps others out", async () => {
  const { dir, remove } = await temporaryDir();
  const file = join(dir, "cloud.yaml");
  await writeFile(file, `dataDir: ${join(dir, "data")}\nlog: json\nhttp:\n  port: 0\n`);
  const lines: string[] = [];
  const env = { TRIBUTARY_CLOUD_GRPC__PORT: "0" };
  const cloud = await runCloud({ ...options, file, env, write: (line) => lines.push(line) });
  const started = JSON.parse(lines.at(-1) ?? "");
  const { grpcPort, httpPort } = cloud;
  assert.ok(grpcPort > 0 && httpPort > 0);
  assert.equal(started.name, "cloud-started");
  assert.deepEqual([started.grpcPort, started.httpPort], [grpcPort, httpPort]);
  const answer = await fetch(`http://127.0.0.1:${httpPort}/api/v1/sessions`);
  assert.equal(answer.status, 200);
  await assert.rejects(runCloud({ ...options, file, env }), { code: "data-dir-locked" });
  await cloud.close();
  const again = await runCloud({ ...options, file, env });
  await again.close();
  await remove();
});

test("a port that is taken is a clear failure, and leaves nothing behind", async () => {
  const { dir, remove } = await temporaryDir();
  const start = (name: string, grpcPort: number, httpPort: number) =>
    runCloud({
      ...options,
      env: {
        TRIBUTARY_CLOUD_DATA_DIR: join(dir, name),
        TRIBUTARY_CLOUD_GRPC__PORT: String(grpcPort),
        TRIBUTARY_CLOUD_HTTP__PORT: String(httpPort),
      },
    });
  const first = await start("one", 0, 0);
  await assert.rejects(start("two", first.grpcPort, 0), { code: "port-in-use" });
  await assert.rejects(start("two", 0, first.httpPort), { code: "port-in-use" });
  await first.close();
  const second = await start("two", first.grpcPort, first.httpPort);
  assert.equal(second.grpcPort, first.grpcPort);
  await second.close();
  await remove();
});
