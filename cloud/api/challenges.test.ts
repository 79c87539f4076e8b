import assert from "node:assert/strict";
import { test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { refuse } from "@tributary/proto/wire/verdict.js";
import { openAccess } from "../access/access.js";
import type { ChallengeRequest, Challenges, ChallengeView } from "../challenges.js";
import type { ApiPorts } from "./ports.js";
import { createApi } from "./server.js";

const view: ChallengeView = {
  ...{ id: "cabc", by: "demand", gateway: "north-1", incarnation: "k3", sequence: 4 },
  ...{ digest: "ab".repeat(32), session: "s", round: "s.3", contributors: 3, asked: 3 },
  ...{ answered: 3, state: "failed", refolded: null, faultCount: 1 },
  faults: [{ round: "s.3", device: "press-7", code: "update-unsigned", message: "not signed" }],
  ...{ askedAtMs: 1, endedAtMs: 2 },
};

async function apiWith(challenges: Partial<Challenges> | undefined) {
  const api = await createApi({
    access: openAccess(),
    challenges,
    clock: createManualClock(),
    events: () => {},
    version: "test",
  } as unknown as ApiPorts);
  return async (method: "GET" | "POST", path: string, payload?: object) => {
    const answer = await api.inject({ method, url: `/api/v1${path}`, ...(payload && { payload }) });
    return { status: answer.statusCode, body: answer.json() as Record<string, unknown> };
  };
}

test("a challenge is asked for, listed and shown with what was found", async () => {
  const asked: ChallengeRequest[] = [];
  const ask = await apiWith({
    challenge(request) {
      asked.push(request);
      return { ok: true, challenge: view };
    },
    list: () => [view],
    get: (id) => (id === view.id ? view : undefined),
  });
  const begun = await ask("POST", "/challenges", { gateway: "north-1" });
  assert.deepEqual([begun.status, begun.body], [201, view]);
  await ask("POST", "/challenges", { round: "s.3", digest: view.digest, updates: 2 });
  assert.deepEqual(asked, [
    { gateway: "north-1", updates: "all" },
    { round: "s.3", digest: view.digest, updates: 2 },
  ]);
  assert.deepEqual((await ask("GET", "/challenges")).body, { items: [view], next: null });
  assert.deepEqual((await ask("GET", "/challenges/cabc")).body, view);
  assert.equal((await ask("GET", "/challenges/nobody")).body.code, "unknown-challenge");
});

test("what is asked for wrongly, or cannot be, is refused with a code", async () => {
  const ask = await apiWith({ challenge: () => refuse("unknown-partial", "no such Partial") });
  const none = await ask("POST", "/challenges", {});
  assert.deepEqual([none.status, none.body.code], [404, "unknown-partial"]);
  for (const wrong of [
    { updates: 0 },
    { updates: "some" },
    { round: "s" },
    { digest: "ab" },
    { more: 1 },
  ])
    assert.equal((await ask("POST", "/challenges", wrong)).status, 400, JSON.stringify(wrong));
  const without = await apiWith(undefined);
  assert.equal((await without("GET", "/challenges")).body.code, "no-authority");
  assert.equal((await without("POST", "/challenges", {})).body.code, "no-authority");
});
