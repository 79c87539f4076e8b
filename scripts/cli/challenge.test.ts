import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type FakeCloud, fakeCloud, problem } from "./testing/cloud.js";
import { runHere } from "./testing/command.js";

const view = {
  ...{ id: "cabc", by: "demand", gateway: "north-1", incarnation: "k3", sequence: 4 },
  ...{ digest: "ab".repeat(32), session: "s", round: "s.3", contributors: 3, asked: 3 },
  ...{ answered: 0, state: "open", refolded: null, faults: [], faultCount: 0 },
  ...{ askedAtMs: Date.now(), endedAtMs: null },
};
const passed = { ...view, answered: 3, state: "passed", refolded: true };
const fault = { round: "s.3", device: "press-7", code: "update-unsigned", message: "not signed" };
const failed = { ...view, answered: 3, state: "failed", faults: [fault], faultCount: 2 };
let end: object = passed;
let looks = 0;
let asked: unknown;
let cloud: FakeCloud;

before(async () => {
  cloud = await fakeCloud(({ method, path, body }) => {
    if (method === "POST" && path === "/challenges") {
      asked = JSON.parse(body.toString());
      return { status: 201, json: view };
    }
    if (path === "/challenges") return { json: { items: [failed, passed, view], next: null } };
    if (path !== "/challenges/cabc") return problem(404, "unknown-challenge", "no challenge");
    return { json: ++looks < 2 ? view : end };
  });
});
after(() => cloud.close());

const command = (...args: string[]) => runHere(["challenge", ...args, "--url", cloud.url]);

test("a challenge is asked for and waited for, and a failed one ends with 1", async () => {
  const good = await command("run", "--gateway", "north-1", "--round", "s.3");
  assert.equal(good.code, 0, good.stderr);
  assert.deepEqual(asked, { gateway: "north-1", round: "s.3", updates: "all" });
  assert.equal(
    good.stdout,
    "challenge cabc: passed, sum made again\nnorth-1, s.3: 3 of 3 updates\n",
  );
  looks = 0;
  end = failed;
  const bad = await command("run", "--updates", "3");
  assert.equal(bad.code, 1);
  assert.deepEqual(asked, { updates: 3 });
  assert.match(bad.stdout, /^challenge cabc: failed\n/);
  assert.match(bad.stdout, /press-7 +s\.3 +update-unsigned +not signed\nand 1 more\n$/);
  assert.match(bad.stderr, /north-1 failed the challenge/);
});

test("one that does not end in time is shown as it is, and what is no count is refused", async () => {
  looks = -1_000;
  const open = await command("run", "--wait", "0s");
  assert.equal(open.code, 0);
  assert.match(open.stdout, /open, 0 of 3 came/);
  assert.equal((await command("run", "--updates", "0")).code, 64);
  assert.equal((await command("run", "--updates", "some")).code, 64);
});

test("challenges are listed, and shown one by one", async () => {
  const listed = await command("list");
  const [head = "", ...lines] = listed.stdout.trimEnd().split("\n");
  assert.match(head, /^CHALLENGE +GATEWAY +ROUND +UPDATES +STATE +ASKED$/);
  assert.deepEqual(
    lines.map((line) => /failed|passed, sum made again|open, 0 of 3 came/.exec(line)?.[0]),
    ["failed", "passed, sum made again", "open, 0 of 3 came"],
  );
  looks = 5;
  end = passed;
  const shown = await command("show", "cabc", "--json");
  assert.deepEqual(JSON.parse(shown.stdout), passed);
  assert.equal((await command("show", "nobody")).code, 1);
});
