import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { request } from "node:https";
import { describe, test } from "node:test";
import { connect } from "node:tls";
import { credentials } from "@grpc/grpc-js";
import { ReducerServiceClient } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { judgeChain, readCertificates } from "@tributary/proto/identity/certificate.js";
import { readGrant } from "@tributary/proto/identity/grant.js";
import { keyToPem, makeKey } from "@tributary/proto/identity/keys.js";
import type { Identity } from "@tributary/proto/identity/names.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { CODE_KEY } from "@tributary/proto/tier/grpc-status.js";
import { ownerToken } from "./access/owner-token.js";
import {
  anchorsOf,
  authorityFile,
  changeAuthority,
  keepAuthority,
  makeAuthorityKeys,
  readAuthorityKeys,
  rotate,
} from "./authority/keys.js";
import { authorityLimits } from "./authority/limits.js";
import { openServerIdentity } from "./authority/server-identity.js";
import { configSchema } from "./config.js";
import type { CloudEvent } from "./events.js";
import type { DenialRow } from "./store/identity-rows.js";
import { startCloud, temporaryDir } from "./testing/cloud.js";

const random = systemRandom();
const DAY_MS = 86_400_000;
const nonce = "0123456789abcdef";
type Context = { after(done: () => Promise<void> | void): void };

/** A cloud of a fleet of its own, over TLS, and how a newcomer asks it. */
async function secureCloud(t: Context, settings: object = {}) {
  const { dir, remove } = await temporaryDir();
  t.after(remove);
  await keepAuthority(dir, await makeAuthorityKeys("press-works", Date.now(), random));
  const listen = { port: 0 };
  const config = configSchema.parse({ dataDir: dir, grpc: listen, http: listen, ...settings });
  const cloud = await startCloud(dir, { config });
  t.after(() => cloud.close());
  const keys = () => readAuthorityKeys(authorityFile(dir));
  const anchors = async () => anchorsOf(await keys(), Date.now());
  return { ...cloud, dir, keys, anchors };
}

type Answer = { readonly status: number; readonly text: string };

function post(
  port: number,
  ca: readonly string[],
  path: string,
  body: object,
  token?: string,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = {
      "content-type": "application/json",
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    };
    const place = { host: "127.0.0.1", port, path, method: "POST", headers };
    const call = request({ ...place, ca: [...ca] }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
    });
    call.on("error", reject);
    call.end(JSON.stringify(body));
  });
}

/** Refused with a code, or `ok`. */
function ask(port: number, ca: readonly string[], shown?: { key: string; cert: string }) {
  const secure = credentials.createSsl(
    Buffer.from(ca.join("")),
    shown ? Buffer.from(shown.key) : null,
    shown ? Buffer.from(shown.cert) : null,
  );
  const client = new ReducerServiceClient(`localhost:${port}`, secure);
  return new Promise<string>((resolve) => {
    client.openPartial({ id: undefined, round: "", digest: "", totalBytes: 0n }, (error) => {
      const [code] = error?.metadata.get(CODE_KEY) ?? [];
      resolve(error === null ? "ok" : String(code ?? error.details));
      client.close();
    });
  });
}

type Cloud = Awaited<ReturnType<typeof secureCloud>>;

/** Enrols over HTTPS, with no certificate to show. */
async function enrol(cloud: Cloud, who: Identity) {
  const key = makeKey(who.kind === "device" ? "EdDSA" : "ES256");
  const ca = await cloud.anchors();
  const owner = await ownerToken(await cloud.keys(), {
    nowMs: Date.now(),
    lifeMs: DAY_MS,
    random,
  });
  const made = await post(cloud.httpPort, ca, "/api/v1/claims", who, owner);
  assert.equal(made.status, 201, made.text);
  const { claim, text } = JSON.parse(made.text) as { claim: { id: string }; text: string };
  const request = await writeRequest({ ...who, claim: claim.id, nonce, iat: 1 }, key);
  const answer = await post(cloud.httpPort, ca, "/api/v1/enrolments", { claim: text, request });
  const grant = readGrant(answer.text);
  assert.ok(answer.status === 201 && grant !== undefined, answer.text);
  const cert = [grant.certificate, ...grant.chain].join("");
  return { key, grant, shown: { key: keyToPem(key), cert }, claim: text, owner };
}

const gateway = { kind: "gateway", name: "gw-1", site: "plant" } as const;
const device = { kind: "device", name: "press-7", site: "plant" } as const;

test("a cloud with an authority speaks TLS alone; gateways enrol over HTTPS and come in by what they got", async (t) => {
  const cloud = await secureCloud(t);
  const { grant, shown, key } = await enrol(cloud, gateway);
  const { anchors } = grant;
  assert.equal(await ask(cloud.grpcPort, anchors, shown), "malformed", "it is heard");
  assert.equal(await ask(cloud.grpcPort, anchors), "certificate-missing");
  const press = await enrol(cloud, device);
  assert.equal(await ask(cloud.grpcPort, anchors, press.shown), "certificate-subject");
  // Renewals need no certificate either: it may have ended.
  const asked = { ...gateway, renew: grant.serial, nonce, iat: 1 };
  const request = await writeRequest(asked, key);
  const renewed = await post(cloud.httpPort, anchors, "/api/v1/renewals", { request });
  assert.equal(renewed.status, 201, renewed.text);
  for (const port of [cloud.httpPort, cloud.grpcPort])
    await assert.rejects(fetch(`http://127.0.0.1:${port}/api/v1/health`), "nothing in the clear");
});

test("a gateway that is revoked is heard no more, at once", async (t) => {
  const cloud = await secureCloud(t);
  const { grant, shown, owner } = await enrol(cloud, gateway);
  assert.equal(await ask(cloud.grpcPort, grant.anchors, shown), "malformed");
  const { kind, name } = gateway;
  const list = await post(cloud.httpPort, grant.anchors, "/api/v1/denylist", { kind, name }, owner);
  assert.equal(list.status, 200, list.text);
  for (;;) {
    const heard = await ask(cloud.grpcPort, grant.anchors, shown);
    if (heard === "certificate-revoked") break;
    assert.equal(heard, "malformed", "only until the cloud has looked");
  }
});

test("the certificate names the cloud, this machine, and what it is told to", async (t) => {
  const cloud = await secureCloud(t, { name: "north", hosts: ["cloud.example", "10.1.2.3"] });
  const ca = await cloud.anchors();
  for (const port of [cloud.httpPort, cloud.grpcPort]) {
    const raw = await new Promise<Buffer>((resolve, reject) => {
      const options = { host: "127.0.0.1", port, ca: [...ca], servername: "cloud.example" };
      const socket = connect({ ...options, ALPNProtocols: ["h2", "http/1.1"] }, () => {
        assert.ok(socket.authorized);
        resolve(socket.getPeerCertificate().raw);
        socket.destroy();
      });
      socket.on("error", reject);
    });
    const leaf = new X509Certificate(raw);
    assert.equal(
      leaf.subjectAltName,
      "URI:tributary:press-works/cloud/north, DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:cloud.example, IP Address:10.1.2.3",
    );
    assert.deepEqual(leaf.keyUsage, ["1.3.6.1.5.5.7.3.1"]);
  }
});

test("a page of another origin is refused, whatever it shows", async (t) => {
  const cloud = await secureCloud(t);
  const ca = await cloud.anchors();
  const asked = (origin: string) =>
    new Promise<number>((resolve, reject) => {
      const place = { host: "127.0.0.1", port: cloud.httpPort, path: "/api/v1/health" };
      const call = request({ ...place, ca: [...ca], headers: { origin } }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      call.on("error", reject);
      call.end();
    });
  assert.equal(await asked("https://evil.example"), 403);
  assert.equal(await asked(`https://127.0.0.1:${cloud.httpPort}`), 200);
});

describe("the cloud's own certificate", () => {
  async function open(t: Context) {
    const { dir, remove } = await temporaryDir();
    t.after(remove);
    const clock = createManualClock(Date.now());
    await keepAuthority(dir, await makeAuthorityKeys("press-works", clock.nowMs(), random));
    const events: CloudEvent[] = [];
    const voided: DenialRow[] = [];
    const identity = await openServerIdentity({
      dataDir: dir,
      store: { denials: async () => [...voided] },
      rules: { certificateDays: 30 },
      name: "cloud",
      hosts: [],
      clock,
      random,
      events: (event) => events.push(event),
    });
    assert.ok(identity);
    t.after(identity.close);
    let changes = 0;
    identity.onChange(() => changes++);
    return { dir, clock, identity, events, voided, changes: () => changes };
  }
  const serial = (identity: { readonly certificate: string }) =>
    readCertificates(identity.certificate)[0]?.serialNumber;

  test("is renewed at two thirds of its life, with a key of its own", async (t) => {
    const { clock, identity, changes } = await open(t);
    const [first, key] = [serial(identity), identity.key];
    clock.advance(19.9 * DAY_MS);
    await identity.refresh();
    assert.deepEqual([serial(identity), changes()], [first, 0]);
    clock.advance(0.2 * DAY_MS);
    await identity.refresh();
    assert.notEqual(serial(identity), first);
    assert.notEqual(identity.key, key);
    assert.equal(changes(), 1);
  });

  test("is of the newest authority, and shows those between to who knows an older one alone", async (t) => {
    const { dir, clock, identity, changes } = await open(t);
    const [old = ""] = anchorsOf(await readAuthorityKeys(authorityFile(dir)), clock.nowMs());
    const turn = { nowMs: clock.nowMs(), overlapMs: authorityLimits.overlapMs, random };
    await changeAuthority(dir, (keys) => rotate(keys, "roots", turn));
    await identity.refresh();
    assert.equal(changes(), 1);
    assert.equal(identity.anchors.length, 2, "certificates of the old one are taken, too");
    const shown = readCertificates(identity.certificate);
    const rules = { fleet: "press-works", use: "server", nowMs: clock.nowMs() } as const;
    for (const anchors of [readCertificates(old), identity.anchors])
      assert.ok(judgeChain(shown, { ...rules, anchors }).ok);
    clock.advance(authorityLimits.overlapMs);
    await identity.refresh();
    assert.equal(identity.anchors.length, 1, "after the overlap they are not");
  });

  test("a denial counts from the next look on", async (t) => {
    const { identity, voided, changes } = await open(t);
    assert.equal(identity.isVoid("gateway", "gw-1", 99), false);
    voided.push({ kind: "gateway", name: "gw-1", before: 100, sequence: 1, atMs: 1 });
    await identity.refresh();
    assert.equal(identity.isVoid("gateway", "gw-1", 99), true);
    assert.equal(changes(), 1);
    await identity.refresh();
    assert.equal(changes(), 1, "nothing new, nothing said");
  });
});
