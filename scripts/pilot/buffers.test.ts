import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import { watchBuffers } from "./buffers.js";

const waiting = (bytes: number) => ({ bytes, partials: 1, oldestMs: 5, usedBytes: bytes });

test("each site is asked where it listens, and a buffer at rest costs two samples", async () => {
  let bytes = 0;
  let nowMs = 0;
  let asked = 0;
  let reach = () => {};
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  const watch = watchBuffers(
    [
      { site: "a", statusUrl: () => "here" },
      { site: "b", statusUrl: () => undefined },
    ],
    () => nowMs++,
    async (url) => {
      assert.equal(url, "here");
      asked++;
      if (asked === 5) bytes = 70;
      if (asked === 8) reach();
      return waiting(bytes);
    },
  );
  await reached;
  while (watch.newest("a")?.is?.bytes !== 70) await new Promise((resolve) => setImmediate(resolve));
  watch.stop();
  const [a, b] = watch.entries();
  assert.deepEqual(
    a?.samples.map(({ is }) => is?.bytes),
    [0, 0, 70, 70],
  );
  assert.ok((a?.samples[1]?.atMs ?? 0) > (a?.samples[0]?.atMs ?? 0) + 1);
  assert.ok(b?.samples.every(({ is }) => is === undefined));
});

test("a gateway's status is read over HTTP; no answer is no figure", async () => {
  const answers = [
    JSON.stringify({
      waiting: { bytes: 9, partials: 2, oldestAgeMs: 3, more: 1 },
      budget: { usedBytes: 11 },
    }),
    "not JSON",
  ];
  const server = createServer((_, response) => response.end(answers.shift() ?? "{}")).listen(
    0,
    "127.0.0.1",
  );
  await once(server, "listening");
  const address = server.address();
  assert.ok(address !== null && typeof address === "object");
  const watch = watchBuffers(
    [{ site: "a", statusUrl: () => `http://127.0.0.1:${address.port}/status.json` }],
    () => 1,
  );
  const samples = () => watch.entries()[0]?.samples ?? [];
  while (samples().length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
  watch.stop();
  server.closeAllConnections();
  server.close();
  assert.deepEqual(samples()[0]?.is, { bytes: 9, partials: 2, oldestMs: 3, usedBytes: 11 });
  assert.equal(samples()[1]?.is, undefined);
});
