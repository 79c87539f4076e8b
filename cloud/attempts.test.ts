import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { claimText, makeClaim } from "@tributary/proto/identity/claim.js";
import { signJws } from "@tributary/proto/identity/jws.js";
import { makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import { readRequest } from "@tributary/proto/identity/request.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { createAttempts } from "./attempts.js";
import { limits } from "./limits.js";

const bounds = {
  address: { perSecond: 1, burst: 3 },
  claim: { perSecond: 0.5, burst: 2 },
  known: 4,
};
const random = systemRandom();
const anchor = "A".repeat(43);
const claim = () => claimText(makeClaim(random, anchor));
const fails = async (): Promise<Verdict<object>> => refuse("claim-unknown", "no such claim");
const succeeds = async (): Promise<Verdict<object>> => ({ ok: true });
const codeOf = async (verdict: Promise<Verdict<object>>) => {
  const judged = await verdict;
  return judged.ok ? "taken" : judged.code;
};

test("failed attempts of one address are bounded, wherever else they fail; others go on", async () => {
  const clock = createManualClock();
  const attempts = createAttempts(bounds, clock);
  const from = (address: string) => codeOf(attempts.try(address, claim(), fails));
  for (let i = 0; i < 3; i++) assert.equal(await from("10.0.0.1"), "claim-unknown");
  assert.equal(await from("10.0.0.1"), "too-many-attempts");
  assert.equal(await from("::ffff:10.0.0.1"), "too-many-attempts");
  assert.equal(await from("10.0.0.2"), "claim-unknown");
  for (let i = 0; i < 3; i++) await from(`fd00::${i}`);
  assert.equal(await from("fd00::9"), "too-many-attempts", "one /64 is one host's");
  clock.advance(1_000);
  assert.equal(await from("10.0.0.1"), "claim-unknown");
  assert.equal(await from("10.0.0.1"), "too-many-attempts");
});

test("failed attempts with one claim are bounded, from wherever; success and waiting cost nothing", async () => {
  const clock = createManualClock();
  const attempts = createAttempts(bounds, clock);
  const text = claim();
  let address = 0;
  const attempt = (how: () => Promise<Verdict<object>>, text_ = text) =>
    codeOf(attempts.try(`10.0.1.${++address}`, text_, how));
  const waits = async () => refuse("claim-pending", "somebody must accept it");
  for (let i = 0; i < 10; i++) {
    assert.equal(await attempt(succeeds), "taken");
    assert.equal(await attempt(waits), "claim-pending");
  }
  // At the same time, as well.
  const together = await Promise.all(Array.from({ length: 4 }, () => attempt(fails)));
  assert.deepEqual(together.sort(), [
    ...["claim-unknown", "claim-unknown", "too-many-attempts", "too-many-attempts"],
  ]);
  assert.equal(await attempt(succeeds), "too-many-attempts");
  assert.equal(await attempt(succeeds, claim()), "taken");
  assert.equal(await codeOf(attempts.try(undefined, text, succeeds)), "too-many-attempts");
  clock.advance(2_000);
  assert.equal(await attempt(succeeds), "taken");
});

test("what is no claim is a matter of its address", async () => {
  const attempts = createAttempts(bounds, createManualClock());
  for (let i = 0; i < 10; i++)
    assert.equal(await codeOf(attempts.try(`10.0.2.${i}`, "junk", fails)), "claim-unknown");
});

test("a bad signature costs the server less than it costs the sender", async (t) => {
  const clock = createManualClock();
  const attempts = createAttempts(limits.attempts, clock);
  const text = claim();
  const FLOOD = 2_000;
  const spent = { sender: 0, server: 0, checked: 0 };
  const { privateKey } = generateKeyPairSync("ed25519");
  const shown = publicJwk(makeKey("EdDSA")); // somebody else's
  for (let i = 0; i < FLOOD; i++) {
    const startedUs = cpuUs();
    const forged = await signJws(
      { kind: "device", name: "press-7", site: "north", claim: "a", nonce: `${i}`, iat: 1 },
      { typ: "tributary-request+jwt", jwk: shown },
      { key: privateKey, algorithm: "EdDSA" },
    );
    const sentUs = cpuUs();
    const judged = await attempts.try("10.0.0.1", text, async () => {
      spent.checked++;
      return readRequest(forged);
    });
    assert.ok(!judged.ok);
    spent.sender += sentUs - startedUs;
    spent.server += cpuUs() - sentUs;
  }
  const each = (us: number) => `${(us / FLOOD).toFixed(1)} us`;
  t.diagnostic(
    `${FLOOD} forged requests: the sender spent ${each(spent.sender)} on each, the server ${each(spent.server)}; it checked ${spent.checked} signatures`,
  );
  assert.equal(spent.checked, limits.attempts.claim.burst);
  assert.ok(spent.server < spent.sender);
});

function cpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}
