import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { viewRounds } from "./status-rounds.js";
import { roundStateOf } from "./status-words.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

const progress = (round: string, sealed: boolean, folded = 1) => ({
  ...{ round, offered: 2, folded, declined: 0, sealed },
});

describe("the rounds of a status", () => {
  it("are those that run, ended since the start, or have a result here", () => {
    const rounds = viewRounds({
      progress: [
        progress("s.1", true),
        progress("s.2", true),
        progress("s.3", true),
        progress("s.4", false),
      ],
      atWork: (round) => (round === "s.3" ? ["g1", "g2"] : ["g3"]),
      ended: (round) => round === "s.3",
      waiting: ["s.2"],
    });
    assert.deepEqual(
      rounds.map(({ round, atWork }) => [round, atWork]),
      [
        ["s.2", ["g3"]],
        ["s.3", ["g1", "g2"]],
        ["s.4", []],
      ],
    );
  });

  it("are in words", () => {
    const words = (sealed: boolean, folded: number, ...atWork: string[]) =>
      roundStateOf({ sealed, folded, atWork });
    assert.equal(words(false, 3), "running");
    assert.equal(words(true, 3), "result made");
    assert.equal(words(true, 0), "over, nothing came");
    assert.equal(words(true, 2, "g1", "g2"), "result made, 2 gateways still at it");
  });

  it("say which gateways below a round went up without, and leave out old ones after a restart", async () => {
    const reducer = await stage.reducer();
    const settings = {
      gateway: "region",
      site: "hub",
      downstream: { listen: { port: 0 } },
      absentGraceMs: 50,
    };
    const dir = await stage.dataDir();
    const region = await stage.gateway(dir, reducer.address, settings);
    const leaf = await stage.gateway(await stage.dataDir(), `127.0.0.1:${region.downstreamPort}`, {
      gateway: "g1",
      site: "east",
      absentGraceMs: 60_000,
    });
    const own = await stage.device(region, "own", "hub");
    const below = await stage.device(leaf, "a", "east");
    await reported(reducer, 2);
    const plan = samplePlan();
    reducer.openRound(plan, ["own", "a"]);
    await below.next("offer");
    await own.next("offer");
    assert.deepEqual(region.status().rounds.map(roundStateOf), ["running"]);
    assert.equal(region.status().idle, null);
    await leaf.close();
    await own.upload(sampleUpdate(plan, "own", 2, { gateway: "region" }));
    await own.next("receipt");
    await until("it is sent", () => region.events.some((e) => e.name === "partial-delivered"));
    const [round] = region.status().rounds;
    assert.ok(round !== undefined);
    assert.deepEqual([round.round, round.atWork], [plan.round, ["g1"]]);
    assert.equal(roundStateOf(round), "result made, 1 gateway still at it");
    await region.close();

    const again = await stage.gateway(dir, reducer.address, settings);
    assert.deepEqual(again.status().rounds, []);
    assert.notEqual(again.status().idle, null);
  });

  it("are why a gateway without devices of its own is not idle", async () => {
    const reducer = await stage.reducer();
    const settings = { gateway: "region", downstream: { listen: { port: 0 } } };
    const region = await stage.gateway(await stage.dataDir(), reducer.address, settings);
    const upstream = `127.0.0.1:${region.downstreamPort}`;
    const leaf = await stage.gateway(await stage.dataDir(), upstream, { gateway: "g1" });
    const device = await stage.device(leaf, "a");
    await reported(reducer, 1);
    assert.equal(region.status().idle?.why, "unasked");
    reducer.openRound(samplePlan(), ["a"]);
    await device.next("offer");
    assert.equal(region.status().idle, null);
    await reducer.close();
    const lost = () => leaf.status().link.brokenAbove !== null;
    await until("the leaf hears that it is cut off", lost);
    const update = sampleUpdate(samplePlan(), "a", 2, { gateway: "g1" });
    await device.upload(update);
    await device.next("receipt");
    await until("the result waits", () => region.status().waiting.partials === 1);
    await until("the leaf is done", () => region.status().idle !== null);
    assert.deepEqual(region.status().idle, { why: "link", round: samplePlan().round });
  });
});
