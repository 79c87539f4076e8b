import assert from "node:assert/strict";
import { test } from "node:test";
import type { Grant } from "@tributary/proto/identity/grant.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import { type RequestPayload, writeRequest } from "@tributary/proto/identity/request.js";
import { type Down, downSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { type AskAuthority, createDeviceEnrol, type Petitioner } from "./device-enrol.js";
import { limits } from "./limits.js";
import { createDeviceFleet, SITE } from "./testing/device-fleet.js";
import { until } from "./testing/wait.js";

const fleet = createDeviceFleet();
const { cert } = fleet.certify("dev-a");
const grant: Grant = {
  certificate: cert,
  serial: "4a0b",
  notAfterMs: 1,
  chain: [],
  anchors: [fleet.authority.certificate],
  token: "t",
  jwks: fleet.identity.jwks,
  denylist: "a list",
};
const key = makeKey("EdDSA");
const payload: RequestPayload = {
  ...{ kind: "device", name: "dev-a", site: SITE, claim: "kq2m5xw7aapn" },
  nonce: "AAECAwQFBgcICQoL",
  iat: 1,
};
const { claim: _, ...rest } = payload as RequestPayload & { claim: string };
const renewal: RequestPayload = { ...rest, renew: "4a0b" };

function open(ask: AskAuthority) {
  const answers: { enrolled: Down<"enrolled">[]; refusals: Down<"refusal">[] } = {
    enrolled: [],
    refusals: [],
  };
  const enrol = createDeviceEnrol({ site: SITE, ask, retryAfterMs: 500, events: () => {} });
  const petitioner: Petitioner = {
    device: "dev-a",
    claim: "a claim",
    send(kind, bytes) {
      const read = decodeEnvelope(downSchemas[kind], bytes, wire.downHeaderBytes);
      assert.ok(read.ok, read.ok ? "" : read.message);
      if (kind === "enrolled") answers.enrolled.push(read.header as Down<"enrolled">);
      else answers.refusals.push(read.header as Down<"refusal">);
    },
  };
  const take = (asks: "enrol" | "renew", request: string, by: Partial<Petitioner> = {}) =>
    enrol.take({ ...petitioner, ...by }, asks, encodeEnvelope({ request }));
  return { enrol, answers, petitioner, take };
}

test("a request goes to the authority with its claim, and the grant comes back without the denylist", async () => {
  const asked: string[] = [];
  const { answers, take } = open(async (claim, request) => {
    asked.push(claim, request);
    return { ok: true, grant };
  });
  const request = await writeRequest(payload, key);
  take("enrol", request);
  await until("it is answered", () => answers.enrolled.length === 1);
  assert.deepEqual(asked, ["a claim", request]);
  const { denylist: __, ...given } = grant;
  assert.deepEqual(answers.enrolled, [given]);
});

test("a renewal goes without a claim", async () => {
  const asked: string[] = [];
  const { answers, take } = open(async (claim) => {
    asked.push(claim);
    return { ok: true, grant };
  });
  take("renew", await writeRequest(renewal, key), { claim: undefined });
  await until("it is answered", () => answers.enrolled.length === 1);
  assert.deepEqual(asked, [""]);
});

test("a refusal comes back with its code, and one that may pass with a time to wait", async () => {
  for (const [code, wait] of [
    ["claim-pending", 500],
    ["uplink-away", 500],
    ["claim-used", undefined],
  ] as const) {
    const { answers, take } = open(async () => refuse(code, "why"));
    take("enrol", await writeRequest(payload, key));
    await until("it is answered", () => answers.refusals.length === 1);
    const [refusal] = answers.refusals;
    assert.deepEqual([refusal?.about, refusal?.code, refusal?.retryAfterMs], ["enrol", code, wait]);
  }
});

test("an authority that cannot be asked is one whose uplink is away", async () => {
  const { answers, take } = open(() => Promise.reject(new Error("broken")));
  take("enrol", await writeRequest(payload, key));
  await until("it is answered", () => answers.refusals.length === 1);
  assert.equal(answers.refusals[0]?.code, "uplink-away");
});

test("what is no request, or for another, never reaches the authority", async () => {
  const { enrol, answers, petitioner, take } = open(() => assert.fail("it was asked"));
  const request = await writeRequest(payload, key);
  const cases: [string, () => void][] = [
    ["malformed", () => enrol.take(petitioner, "enrol", Uint8Array.of(1, 2, 3))],
    ["request-malformed", () => take("enrol", "x")],
    ["request-signature", () => take("enrol", `${request.slice(0, -86)}${"A".repeat(86)}`)],
    ["request-subject", () => take("enrol", request, { device: "dev-b" })],
    ["request-malformed", () => take("renew", request)],
  ];
  for (const [kind, site] of [
    ["gateway", SITE],
    ["device", "other"],
  ] as const) {
    const other = await writeRequest({ ...payload, kind, site }, key);
    cases.push(["request-subject", () => take("enrol", other)]);
  }
  const again = await writeRequest(renewal, key);
  cases.push(["request-malformed", () => take("enrol", again)]);
  for (const [code, send] of cases) {
    const before = answers.refusals.length;
    send();
    await until("it is refused", () => answers.refusals.length > before);
    assert.equal(answers.refusals.at(-1)?.code, code);
  }
});

test("one device asks once at a time, and all together so often as is passed on", async () => {
  const waiting: ((verdict: Verdict<{ grant: Grant }>) => void)[] = [];
  const { answers, take } = open(() => new Promise((resolve) => waiting.push(resolve)));
  const request = await writeRequest(payload, key);
  take("enrol", request);
  take("enrol", request);
  await until("the second is refused", () => answers.refusals.length === 1);
  assert.equal(answers.refusals[0]?.code, "busy");
  for (let i = 1; i <= limits.petitions; i++) take("enrol", request, { device: `dev-${i}` });
  await until("the first is asked for", () => waiting.length === 1);
  const busy = () => answers.refusals.filter(({ code }) => code === "busy").length;
  await until("one too many is refused", () => busy() === 2);
  waiting[0]?.({ ok: true, grant });
  await until("the first is answered", () => answers.enrolled.length === 1);
  take("enrol", request);
  await until("it may ask again", () => waiting.length === 2);
});
