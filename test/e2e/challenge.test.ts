import assert from "node:assert/strict";
import type { KeyObject } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { openAuthority } from "@tributary/cloud/authority/authority.js";
import { jwksOf, keepAuthority, makeAuthorityKeys } from "@tributary/cloud/authority/keys.js";
import { type Cloud, createCloud } from "@tributary/cloud/cloud.js";
import { configSchema as cloudConfig } from "@tributary/cloud/config.js";
import type { CloudEvent } from "@tributary/cloud/events.js";
import { sessionParamsSchema } from "@tributary/cloud/params.js";
import { openStore } from "@tributary/cloud/store/open.js";
import { createDevice } from "@tributary/device-sdk/device.js";
import { type BrokerOptions, createBroker } from "@tributary/gateway/broker.js";
import { configSchema as gatewayConfig } from "@tributary/gateway/config.js";
import type { GatewayEvent } from "@tributary/gateway/events.js";
import { createGateway, type Gateway } from "@tributary/gateway/gateway.js";
import type { GatewayIdentity } from "@tributary/gateway/identity.js";
import { createUpstream } from "@tributary/gateway/upstream.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { readClaim } from "@tributary/proto/identity/claim.js";
import type { Jwks } from "@tributary/proto/identity/keyring.js";
import { makeKey, publicJwk, publicKey } from "@tributary/proto/identity/keys.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { createEventLog, type EventLog } from "../floor/event-log.js";
import { valuesIn } from "../floor/expected.js";
import { gatewaySettings } from "../floor/floor.js";
import { initialValues, layout, sessionParams } from "../floor/sample.js";
import { createStepTrainer } from "../floor/trainer.js";

const fleet = "press-works";
const keys = new Map(["press-1", "press-2", "mill-1"].map((name) => [name, makeKey("EdDSA")]));
const site = "north";

/** An authority, and these devices enrolled with it; its public keys. */
async function enrolAll(dataDir: string): Promise<Jwks> {
  const [clock, random] = [systemClock(), systemRandom()];
  const made = await makeAuthorityKeys(fleet, Date.now(), random);
  await keepAuthority(dataDir, made);
  const store = await openStore({ dataDir, url: undefined });
  try {
    const rules = { certificateDays: 30, graceDays: 180 };
    const ports = { dataDir, store: store.identities, clock, random, rules };
    const authority = await openAuthority({ ...ports, events: () => {} });
    assert.ok(authority);
    for (const [name, key] of keys) {
      const scope = { kind: "device", name, site, uses: 1, approval: false } as const;
      const claim = await authority.createClaim({ ...scope, lifeMs: 60_000 });
      assert.ok(claim.ok);
      const iat = Math.floor(Date.now() / 1000);
      const { id = "" } = readClaim(claim.text) ?? {};
      const nonce = "n".repeat(22);
      const payload = { kind: "device", name, site, claim: id, nonce, iat } as const;
      assert.ok((await authority.enrol(claim.text, await writeRequest(payload, key))).ok);
    }
    return jwksOf(made, Date.now());
  } finally {
    await store.close();
  }
}

type Place = {
  readonly upstreamPort: number;
  readonly settings?: object;
  /** Whether its devices show their keys to it. */
  readonly secure: boolean;
};

type Stage = {
  readonly dir: string;
  readonly cloud: Cloud & EventLog<CloudEvent>;
  gateway(name: string, place: Place): Promise<Gateway & EventLog<GatewayEvent>>;
  devices(mqttPort: number): Promise<void>;
};

/** Tiers on loopback, in the clear: what the TLS of each link shows is given in its place. */
async function withStage(
  challenges: object,
  run: (stage: Stage) => Promise<void>,
  after: (dataDir: string) => Promise<void> = async () => {},
): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "tributary-challenge-"));
  const dataDir = join(dir, "cloud");
  const teardown: (() => Promise<unknown>)[] = [];
  const closeAll = async () => {
    for (const undo of teardown.splice(0).reverse()) await undo();
  };
  try {
    const jwks = await enrolAll(dataDir);
    const log = createEventLog<CloudEvent>("cloud");
    const listen = { port: 0, plain: true };
    const cloud = await createCloud({
      config: cloudConfig.parse({ dataDir, grpc: listen, http: listen, challenges }),
      softwareVersion: "test",
      events: log.add,
    });
    teardown.push(() => cloud.close());
    await run({
      dir,
      cloud: { ...cloud, ...log },
      async gateway(name, { upstreamPort, settings = {}, secure }) {
        const gatewayLog = createEventLog<GatewayEvent>(name);
        const gateway = await createGateway({
          config: gatewayConfig.parse(
            gatewaySettings(dir, name, site, upstreamPort, { ...settings }),
          ),
          softwareVersion: "test",
          events: gatewayLog.add,
          parts: {
            upstream: createUpstream(`127.0.0.1:${upstreamPort}`, systemClock()),
            broker: trustingBroker,
            ...(secure && { identity: identityOf(name, jwks) }),
          },
        });
        teardown.push(() => gateway.close());
        return { ...gateway, ...gatewayLog };
      },
      async devices(mqttPort) {
        for (const [name, key] of keys) {
          const deviceLog = createEventLog<{ name: string }>(name);
          const device = await createDevice({
            device: name,
            site,
            gateway: `mqtt://127.0.0.1:${mqttPort}`,
            trainer: createStepTrainer({ device: name, samples: 10 }),
            key: () => key,
            onEvent: deviceLog.add,
            parts: { systemAttributes: async () => ({}) },
          });
          teardown.push(() => device.close());
          await device.start();
          await deviceLog.event("link-up");
        }
      },
    });
    await closeAll();
    await after(dataDir);
  } finally {
    await closeAll();
    await rm(dir, { recursive: true, force: true });
  }
}

/** A plain broker whose devices have shown their keys, as over TLS. */
function trustingBroker({ site: at, handlers, clock }: BrokerOptions) {
  return createBroker({
    site: at,
    clock,
    handlers: {
      ...handlers,
      onConnected(device) {
        const key = publicKey(publicJwk(keys.get(device) as KeyObject));
        handlers.onConnected(device, {
          by: "certificate",
          key,
          givenAt: 0,
          endsAtMs: Number.MAX_SAFE_INTEGER,
        });
      },
    },
  });
}

function identityOf(name: string, jwks: Jwks): GatewayIdentity {
  return {
    fleet,
    name,
    site,
    key: makeKey("ES256"),
    certificate: "",
    fromMs: 0,
    toMs: Number.MAX_SAFE_INTEGER,
    anchors: [],
    jwks,
    denylist: undefined,
    denylistText: undefined,
    takeDenylist: async () => ({ ok: true, news: false }),
    onChange: () => () => {},
  };
}

async function runSession({ cloud }: Stage, params: object): Promise<void> {
  const file = Uint8Array.from(encodeSafetensors(layout, initialValues));
  async function* pieces() {
    yield file;
  }
  assert.ok((await cloud.models.importFile("start", pieces(), Date.now())).ok);
  const started = await cloud.sessions.start(
    sessionParamsSchema.parse({ ...sessionParams, name: "s", devicesMin: 3, ...params }),
  );
  assert.ok(started.ok, JSON.stringify(started));
  await cloud.event("session-finished");
}

const lengthOf = (values: ArrayLike<number>) =>
  Math.sqrt(Array.from(values).reduce((sum, value) => sum + value * value, 0));

test("a gateway passes the challenge of each Partial, clipped as it is, and its sum is made again to the bit", () =>
  withStage({ rate: 1, updates: 100 }, async (stage) => {
    const { cloud } = stage;
    const clipNorm = 0.5;
    const gateway = await stage.gateway("north-1", {
      upstreamPort: cloud.grpcPort,
      secure: true,
    });
    await stage.devices(gateway.mqttPort);
    await runSession(stage, { rounds: 2, clipNorm });
    for (const round of ["s.1", "s.2"]) {
      const passed = await cloud.event("challenge-passed", { round });
      assert.deepEqual([passed.updates, passed.refolded], [3, true]);
    }
    assert.equal(cloud.count("challenge-failed"), 0);
    assert.equal(gateway.count("update-clipped"), 6);
    assert.equal(cloud.count("partial-accepted", { clipped: 3 }), 2);
    const { digest = "" } = (await cloud.store.model("s.1")) ?? {};
    const opened = await cloud.models.open(digest);
    const values = valuesIn(Buffer.from(await opened.read(0, opened.size)));
    await opened.close();
    const moved = values.map((value, i) => value - (initialValues[i] ?? 0));
    assert.ok(lengthOf(moved) <= clipNorm * 1.000_01, `${lengthOf(moved)}`);
  }));

test("a challenge finds its way through a gateway between, and the answer back", () =>
  withStage({ rate: 1, updates: 100 }, async (stage) => {
    const { cloud } = stage;
    const region = await stage.gateway("region", {
      upstreamPort: cloud.grpcPort,
      settings: { downstream: { listen: { port: 0 } } },
      secure: false,
    });
    const leaf = await stage.gateway("north-1", {
      upstreamPort: region.downstreamPort ?? 0,
      secure: true,
    });
    await stage.devices(leaf.mqttPort);
    await runSession(stage, { rounds: 1 });
    const passed = await cloud.event("challenge-passed", { round: "s.1" });
    assert.deepEqual([passed.gateway, passed.refolded], ["region", true]);
    await leaf.event("challenge-answered", { challenge: passed.challenge, updates: 3 });
  }));

test("a gateway that kept nothing fails, with an alarm and a line on the audit log", () =>
  withStage(
    { rate: 1, updates: 2, timeoutMs: 1_000 },
    async (stage) => {
      const { cloud } = stage;
      const gateway = await stage.gateway("north-1", {
        upstreamPort: cloud.grpcPort,
        settings: { signedUpdates: { budgetBytes: 0 } },
        secure: true,
      });
      await stage.devices(gateway.mqttPort);
      await runSession(stage, { rounds: 1 });
      const failed = await cloud.event("challenge-failed");
      assert.deepEqual(
        [failed.level, failed.gateway, failed.code],
        ["error", "north-1", "update-missing"],
      );
    },
    async (dataDir) => {
      const store = await openStore({ dataDir, url: undefined });
      const { items } = await store.audit.list({}, { limit: 100 });
      await store.close();
      const lines = items.filter(({ action }) => action === "challenge");
      assert.deepEqual(
        lines.map(({ actor, outcome, detail }) => [actor, outcome, detail.updates]),
        [["gateway:north-1", "update-missing", "2"]],
      );
    },
  ));
