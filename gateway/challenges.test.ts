import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type {
  AnswerChallengeRequest,
  Challenge,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import { signWarrant } from "@tributary/proto/identity/warrant.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { beginSchema } from "@tributary/proto/wire/device-link.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { createChallenges } from "./challenges.js";
import type { SignedUpdate } from "./signed-updates.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { until } from "./testing/wait.js";

/** An update of three chunks of the tier link. */
const large = samplePlan({ layout: [{ name: "w", shape: [(wire.tierChunkBytes * 5) / 4] }] });
const kept = new Map<string, SignedUpdate>([
  ["mnist.1 a", sampleUpdate(large, "a", 3)],
  ["mnist.1 b", sampleUpdate(samplePlan({ task: "evaluate" }), "b", 0)],
]);
const signing = { kid: "k1", key: makeKey("EdDSA") };
const jwk = publicJwk(signing.key);
assert.ok(jwk.kty === "OKP");
const identity = {
  fleet: "works",
  jwks: { keys: [{ ...jwk, kid: "k1", alg: "EdDSA" as const, use: "sig" as const }] },
};

async function challenge(id: string, ...devices: readonly string[]): Promise<Challenge> {
  const updates = devices.map((device, at) => ({ index: at + 5, round: "mnist.1", device }));
  const asked = { id, digest: "0".repeat(64), updates };
  return { ...asked, warrant: await signWarrant(identity.fleet, asked, signing) };
}

function bench(answer?: () => Promise<void>) {
  const answers: AnswerChallengeRequest[][] = [];
  const passed: string[] = [];
  const said: string[] = [];
  const challenges = createChallenges({
    identity,
    signed: { read: async (round, device) => kept.get(`${round} ${device}`) },
    upstream: {
      async answerChallenge(messages) {
        await answer?.();
        const all: AnswerChallengeRequest[] = [];
        for await (const message of messages) all.push(message);
        answers.push(all);
        return 1;
      },
    },
    passOn: ({ id }) => void passed.push(id),
    events: (event) => void said.push(event.name),
  });
  return { challenges, answers, passed, said };
}

describe("a challenge", () => {
  it("is answered with what is kept, each update in pieces that a message takes, and passed on below", async () => {
    const { challenges, answers, passed, said } = bench();
    challenges.asked(await challenge("one", "a", "nobody", "b", "../../x", "__proto__"));
    await until("the answer came", () => said.includes("challenge-answered"));
    assert.deepEqual(passed, ["one"]);
    const [messages = []] = answers;
    assert.deepEqual(
      messages.map(({ id }) => id),
      ["one", ...new Array(messages.length - 1).fill("")],
    );
    const starts = messages.flatMap(({ update }) => (update ? [update] : []));
    assert.deepEqual(
      starts.map(({ index }) => index),
      [5, 7],
    );
    const read = decodeCbor(starts[0]?.begin ?? new Uint8Array(0), { depth: 6, items: 1_000 });
    assert.ok(read.ok);
    const update = kept.get("mnist.1 a");
    assert.equal(beginSchema.parse(read.value).digest, update?.begin.digest);
    assert.ok(messages.every(({ data }) => data.length <= wire.tierChunkBytes));
    assert.equal(messages.filter(({ data }) => data.length > 0).length, 3);
    const bytes = Buffer.concat(messages.map(({ data }) => data));
    assert.ok(bytes.equals(update?.payload ?? new Uint8Array(0)));
  });

  it("that the fleet does not stand for is not answered, and a gateway of no fleet answers none", async () => {
    const { challenges, answers, passed, said } = bench();
    const asked = await challenge("one", "b");
    challenges.asked({ ...asked, warrant: "" });
    await until("it was refused", () => said.includes("challenge-refused"));
    const [update] = (await challenge("two", "a")).updates;
    challenges.asked({ ...asked, updates: update ? [update] : [] });
    await until("it was refused", () => said.length === 2);
    assert.deepEqual(passed, ["one", "one"]);
    assert.deepEqual(said, ["challenge-refused", "challenge-refused"]);
    challenges.asked(asked);
    await until("the answer came", () => said.includes("challenge-answered"));
    assert.equal(answers.length, 1);
  });

  it("of which nothing is kept is passed on, and not answered", async () => {
    const { challenges, answers, passed, said } = bench();
    challenges.asked(await challenge("one", "nobody"));
    challenges.asked(await challenge("two", "b"));
    await until("the other one's answer came", () => said.includes("challenge-answered"));
    assert.deepEqual(passed, ["one", "two"]);
    assert.equal(answers.length, 1);
  });

  it("that is asked again while it is being answered is answered once, and anew after that", async () => {
    let go = () => {};
    let calls = 0;
    const { challenges, answers, said } = bench(() => {
      calls++;
      return new Promise((done) => {
        go = done;
      });
    });
    challenges.asked(await challenge("one", "b"));
    await until("it is being answered", () => calls === 1);
    challenges.asked(await challenge("one", "b"));
    go();
    await until("the answer came", () => said.length === 1);
    challenges.asked(await challenge("one", "b"));
    await until("it is being answered again", () => calls === 2);
    go();
    await until("the answer came again", () => said.length === 2);
    assert.equal(answers.length, 2);
    assert.deepEqual(said, ["challenge-answered", "challenge-answered"]);
  });

  it("whose answer breaks off is told of, and holds up no other", async () => {
    let broken = true;
    const { challenges, said } = bench(async () => {
      if (broken) throw new Error("the link is down");
    });
    challenges.asked(await challenge("one", "b"));
    await until("it was told of", () => said.includes("challenge-unanswered"));
    broken = false;
    challenges.asked(await challenge("one", "b"));
    await until("the answer came", () => said.includes("challenge-answered"));
    challenges.close();
    challenges.asked(await challenge("two", "b"));
    assert.equal(said.length, 2);
  });
});
