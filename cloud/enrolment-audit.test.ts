import assert from "node:assert/strict";
import { after, test } from "node:test";
import { credentials } from "@grpc/grpc-js";
import {
  type EnrolResponse,
  ReducerServiceClient,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { ownerToken } from "./access/owner-token.js";
import type { AuditLine } from "./audit/chain.js";
import { keepAuthority, makeAuthorityKeys } from "./authority/keys.js";
import { startCloud, temporaryDir } from "./testing/cloud.js";

const random = systemRandom();
const { dir, remove } = await temporaryDir();
const nowMs = Date.now();
const keys = await makeAuthorityKeys("press-works", nowMs, random);
await keepAuthority(dir, keys);
const cloud = await startCloud(dir);
const client = new ReducerServiceClient(
  `127.0.0.1:${cloud.grpcPort}`,
  credentials.createInsecure(),
);
after(async () => {
  client.close();
  await cloud.close();
  await remove();
});

const owner = await ownerToken(keys, { nowMs, lifeMs: 3_600_000, random });
async function call(path: string, body?: object): Promise<unknown> {
  const answer = await fetch(`http://127.0.0.1:${cloud.httpPort}/api/v1${path}`, {
    method: body === undefined ? "GET" : "POST",
    headers: {
      authorization: `Bearer ${owner}`,
      ...(body !== undefined && { "content-type": "application/json" }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return answer.json();
}

function enrol(claim: string, request: string): Promise<EnrolResponse> {
  return new Promise((resolve, reject) => {
    client.enrol({ claim, request }, (error, answer) =>
      error === null ? resolve(answer) : reject(error),
    );
  });
}

test("a device that enrols through a gateway is on the audit log, as is one that is refused", async () => {
  const who = { kind: "device", name: "press-7", site: "north" } as const;
  const made = (await call("/claims", who)) as { claim: { id: string }; text: string };
  const asked = { ...who, claim: made.claim.id, nonce: "0123456789abcdef", iat: 1 };
  const enrolled = await enrol(made.text, await writeRequest(asked, makeKey("EdDSA")));
  assert.equal(enrolled.refusal, undefined);
  const other = await enrol(made.text, await writeRequest(asked, makeKey("EdDSA")));
  assert.equal(other.refusal?.code, "claim-used");
  const { items } = (await call("/audit?actor=newcomer")) as { items: readonly AuditLine[] };
  const detail = { claim: made.claim.id, kind: "device", name: "press-7", site: "north" };
  assert.deepEqual(
    items.map((line) => [line.action, line.outcome, line.detail]),
    [
      ["enrol by a gateway", "done", detail],
      ["enrol by a gateway", "claim-used", detail],
    ],
  );
});
