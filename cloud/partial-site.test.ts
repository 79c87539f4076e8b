import assert from "node:assert/strict";
import { test } from "node:test";
import { aggregationSchema } from "./aggregation.js";
import { checkSite } from "./partial-site.js";
import { paramsOf } from "./testing/cloud.js";
import { memoryStore } from "./testing/memory-store.js";
import { sumOf } from "./testing/rounds.js";
import { gatewayWith, sharedCloud } from "./testing/shared-cloud.js";

const round = {
  id: "s.1",
  rosters: { ga: ["a"], gb: ["b"], regional: ["c", "d"] },
  siteRosters: { sa: ["a"], sb: ["b"], sc: ["c"], sd: ["d"] },
};
const nowhere = () => undefined;

function of(site: string | null, ...devices: readonly string[]) {
  const contributors = devices.map((device) => ({
    round: "s.1",
    device,
    samples: 1,
    updates: 1,
  }));
  return { site, contributors };
}

test("a Partial is of the site that its contributors were at when the round opened", () => {
  assert.deepEqual(checkSite([round], nowhere, of("sa", "a")), { ok: true });
  for (const [site, device] of [
    ["sa", "b"],
    ["ghost", "b"],
    ["constructor", "b"],
    ["sa", "c"],
  ] as const) {
    const verdict = checkSite([round], nowhere, of(site, "a", device));
    assert.equal(verdict.ok ? "ok" : verdict.code, "site-mismatch");
  }
  const stretch = { ...of("sa", "b").contributors[0], round: "s.1.4" };
  const named = checkSite([round], nowhere, { ...of("sa"), contributors: [stretch as never] });
  assert.match(named.ok ? "" : named.message, /^s\.1\.4\/b is not of site sa$/);
});

test("a device that moves counts for where it is now, or for another site below its gateway", () => {
  const nowAt = (device: string) => (device === "b" ? "sa" : undefined);
  assert.deepEqual(checkSite([round], nowAt, of("sa", "a", "b")), { ok: true });
  assert.deepEqual(checkSite([round], nowhere, of("sd", "c", "d")), { ok: true });
});

test("a Partial of several sites, or of a round from before sites were on record, is not refused", () => {
  assert.deepEqual(checkSite([round], nowhere, of(null, "a", "b")), { ok: true });
  const before = { ...round, siteRosters: {} };
  assert.deepEqual(checkSite([before], nowhere, of("ghost", "a")), { ok: true });
});

test("under site memory no gateway takes another site's slot, in time or late, by name or by none", async () => {
  const cloud = await sharedCloud({ store: memoryStore() });
  const one = await gatewayWith(cloud, "ga", "a1");
  const two = await gatewayWith(cloud, "gb", "b1", "b2");
  const aggregation = aggregationSchema.parse({ kind: "site-memory" });
  const started = await cloud.sessions.start(paramsOf({ devicesMin: 3, aggregation }));
  assert.ok(started.ok, JSON.stringify(started));
  const [first, own] = [await one.round(), await two.round()];
  const bring = (site: string | null, sequence: number, device = "b1") =>
    two.deliver(sumOf(own.plan, { [device]: 2 }, { site }), sequence);
  const refused = async (site: string, sequence: number) => {
    const { refusal } = await bring(site, sequence);
    assert.equal(refusal?.code, "site-mismatch");
    assert.equal(refusal?.message, `s.1/b1 is not of site ${site}`);
  };
  await refused("ga", 1);
  await refused("ghost", 2);
  // One that names none is of its gateway's site.
  assert.equal((await bring(null, 3, "b2")).receipt?.outcome, "merged");
  const merged = await one.deliver(sumOf(first.plan, { a1: 2 }, { site: "ga" }), 1);
  assert.equal(merged.receipt?.outcome, "merged");
  await cloud.event((e) => e.name === "round-closed" && e.round === "s.1");
  const round = await cloud.store.wholeRound("s.1");
  assert.deepEqual(round?.siteRosters, { ga: ["a1"], gb: ["b1", "b2"] });
  await refused("ga", 4);
  assert.equal((await bring("gb", 5)).receipt?.outcome, "kept");
  for (const gateway of [one, two]) gateway.close();
});
