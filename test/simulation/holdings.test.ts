import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { encodePartial } from "@tributary/proto/algebra/frame.js";
import type { Partial } from "@tributary/proto/algebra/partial.js";
import type { PartialState } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import type { PartialAnswer, Service } from "@tributary/proto/tier/service.js";
import { createRack, type Hardware } from "./hardware.js";
import { createHoldings, type Holdings } from "./holdings.js";

const rack = (name: string) => createRack(name, seededRandom(name));

/** A Partial of one contribution, as the first in its gateway's outbox. */
async function keep({ disk }: Hardware, round: string, device: string): Promise<void> {
  const partial: Partial = {
    site: "a",
    base: "s.0",
    baseDigest: "0".repeat(64),
    grid: { fractionBits: [1], range: 1 },
    layout: [{ name: "w", shape: [1] }],
    weight: 1n,
    contributors: [{ round, device, samples: 1, updates: 1 }],
    metrics: {},
    saturated: 0,
    sum: BigInt64Array.of(1n),
  };
  await disk.writeFileAtomic("outbox/0000000000000001.partial", encodePartial(partial));
}

function serviceThat(answers: PartialState["receipt"]): Service {
  const answer = async (): Promise<PartialAnswer> => ({
    ok: true,
    state: { receivedBytes: 0n, receipt: answers, refusal: undefined },
  });
  const unused = () => Promise.reject(new Error("unused"));
  return {
    attach() {},
    fetchModel: unused,
    openPartial: answer,
    async sendPartial(messages) {
      for await (const _ of messages);
      return answer();
    },
    enrol: unused,
    answerChallenge: unused,
  };
}

const receipt = { digest: "0".repeat(64), outcome: "kept", rule: "" };
const id = { gateway: "g1", incarnation: "one", sequence: 1n };
const opening = { id, round: "s.1", digest: receipt.digest, totalBytes: 1n };

async function* whole() {
  yield { id, offset: 0n, data: Buffer.alloc(1) };
}

/** What was overheard has been noted. */
const noted = () => new Promise((resolve) => setImmediate(resolve));

/** A gateway that gave a device its receipt, and holds its Partial. */
async function bench(): Promise<{ holdings: Holdings; place: ReturnType<typeof rack> }> {
  const holdings = createHoldings();
  const place = rack("g1");
  holdings.named("one", place.now);
  holdings.receipted(place.now, "s.1", "d1");
  await keep(place.now, "s.1", "d1");
  return { holdings, place };
}

/** One that ran three site rounds, and has handed over what the first two, or all, came to. */
async function siteBench(newest: number) {
  const holdings = createHoldings();
  const place = rack("g1");
  const above = rack("g2");
  holdings.named("one", place.now);
  for (const k of [1, 2, 3]) holdings.receipted(place.now, `s.1.${k}`, "d1");
  holdings.composed(place.now, "s.1", 1, newest);
  await keep(place.now, "s.1", "d1");
  await holdings.overheard(serviceThat(receipt), above.now).openPartial(opening);
  await noted();
  const lost = () => [1, 2, 3].map((k) => holdings.lost(`s.1.${k}`, "d1"));
  return { place, above, lost };
}

describe("who answers for a contribution", () => {
  it("is the gateway that receipted it: it is lost with its hardware, and with no other", async () => {
    const { holdings, place } = await bench();
    rack("g2").replace();
    assert.equal(holdings.lost("s.1", "d1"), false);
    place.replace();
    assert.equal(holdings.lost("s.1", "d1"), true);
    assert.equal(holdings.lost("s.2", "d1"), false, "nobody ever had that");
    assert.equal(holdings.lost("s.1", "d2"), false);
  });

  for (const call of ["openPartial", "sendPartial"] as const)
    it(`is what is above from its receipt on (${call})`, async () => {
      const { holdings, place } = await bench();
      const above = rack("g2");
      const service = holdings.overheard(serviceThat(receipt), above.now);
      await (call === "openPartial" ? service.openPartial(opening) : service.sendPartial(whole()));
      await noted();
      place.replace();
      assert.equal(holdings.lost("s.1", "d1"), false);
      above.replace();
      assert.equal(holdings.lost("s.1", "d1"), true);
    });

  it("stays the gateway while there is no receipt", async () => {
    const { holdings, place } = await bench();
    const service = holdings.overheard(serviceThat(undefined), undefined);
    await service.openPartial(opening);
    await service.sendPartial(whole());
    await noted();
    place.replace();
    assert.equal(holdings.lost("s.1", "d1"), true);
  });

  it("is not the gateway again when the device's receipt comes last", async () => {
    const { holdings, place } = await bench();
    const above = rack("g2");
    await holdings.overheard(serviceThat(receipt), above.now).openPartial(opening);
    await noted();
    holdings.receipted(place.now, "s.1", "d1");
    above.replace();
    assert.equal(holdings.lost("s.1", "d1"), true);
  });

  it("is the cloud in the end, which nobody replaces", async () => {
    const { holdings, place } = await bench();
    await holdings.overheard(serviceThat(receipt), undefined).openPartial(opening);
    await noted();
    place.replace();
    assert.equal(holdings.lost("s.1", "d1"), false);
  });

  it("is what is above for the site rounds that a Partial came of, and the gateway for later ones", async () => {
    const { place, above, lost } = await siteBench(2);
    assert.deepEqual(lost(), [false, false, false]);
    place.replace();
    assert.deepEqual(lost(), [false, false, true]);
    above.replace();
    assert.deepEqual(lost(), [true, true, true]);
  });

  it("is what is above for all site rounds once they are handed over", async () => {
    const { place, above, lost } = await siteBench(3);
    place.replace();
    assert.deepEqual(lost(), [false, false, false]);
    above.replace();
    assert.deepEqual(lost(), [true, true, true]);
  });
});
