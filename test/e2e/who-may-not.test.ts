import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect as connectHttp2, type SecureClientSessionOptions } from "node:http2";
import { request } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type ConnectionOptions, connect, createServer } from "node:tls";
import { type Cloud, createCloud } from "@tributary/cloud/cloud.js";
import { configSchema as cloudConfig } from "@tributary/cloud/config.js";
import type { CloudEvent } from "@tributary/cloud/events.js";
import { configSchema as gatewayConfig } from "@tributary/gateway/config.js";
import type { GatewayEvent } from "@tributary/gateway/events.js";
import { createGateway, type Gateway } from "@tributary/gateway/gateway.js";
import { ReducerServiceService } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { CODE_KEY } from "@tributary/proto/tier/grpc-status.js";
import { runHere } from "tributary/cli/testing/command.js";
import { ownerOf } from "tributary/cli/testing/owner.js";
import { createEventLog, type EventLog } from "../floor/event-log.js";
import { gatewaySettings } from "../floor/floor.js";

const site = "plant";
const host = "127.0.0.1";
const closers: (() => Promise<unknown>)[] = [];
let cloud: Cloud;
let region: Gateway & EventLog<GatewayEvent>;
let shown: { readonly key: string; readonly cert: string; readonly ca: string };

/** A cloud over TLS, and a regional gateway that has enrolled there and serves gateways itself. */
before(async () => {
  const dir = await mkdtemp(join(tmpdir(), "tributary-who-may-not-"));
  closers.push(() => rm(dir, { recursive: true, force: true }));
  const dataDir = join(dir, "cloud");
  const made = await runHere(["cloud", "init", "--data", dataDir, "--fleet", "press-works"]);
  assert.equal(made.code, 0, made.stderr);
  const config = cloudConfig.parse({ dataDir, grpc: { port: 0 }, http: { port: 0 } });
  const cloudLog = createEventLog<CloudEvent>("cloud");
  cloud = await createCloud({ config, softwareVersion: "test", events: cloudLog.add });
  closers.push(() => cloud.close());
  const authority = `https://${host}:${cloud.httpPort}`;
  const scope = ["--kind", "gateway", "--name", "region", "--site", site, "--url", authority];
  const claim = await runHere(["claim", "create", ...scope], { env: ownerOf(dataDir) });
  assert.equal(claim.code, 0, claim.stderr);
  const settings = gatewaySettings(dir, "region", site, cloud.grpcPort, {
    authority,
    downstream: { listen: { port: 0 } },
  });
  const identity = join(settings.dataDir, "identity");
  await mkdir(identity, { recursive: true, mode: 0o700 });
  await writeFile(join(identity, "claim"), claim.stdout, { mode: 0o600 });
  const log = createEventLog<GatewayEvent>("region");
  const started = await createGateway({
    config: gatewayConfig.parse(settings),
    softwareVersion: "test",
    events: log.add,
  });
  region = { ...started, ...log };
  closers.push(() => region.close());
  await log.event("uplink-attached");
  const read = (name: string) => readFileSync(join(identity, name), "utf8");
  shown = { key: read("key.pem"), cert: read("certificate.pem"), ca: read("anchors.pem") };
});
after(async () => {
  for (const close of closers.reverse()) await close();
});

const grpcPorts = () => ({ cloud: cloud.grpcPort, region: region.downstreamPort ?? 0 });

/**
 * The code that each method of the service, as it is defined, refuses an empty call with; gRPC's own
 * status where there is no code.
 */
async function callAll(port: number, options: SecureClientSessionOptions) {
  const trust = { ca: shown.ca, checkServerIdentity: () => undefined };
  const session = connectHttp2(`https://${host}:${port}`, { ...trust, ...options });
  const answers: Record<string, string> = {};
  for (const [name, { path }] of Object.entries(ReducerServiceService)) {
    const call = session.request({
      ...{ ":method": "POST", ":path": path, te: "trailers" },
      "content-type": "application/grpc",
      "grpc-timeout": "30S",
    });
    let ended: Readonly<Record<string, unknown>> = {};
    const take = (headers: Readonly<Record<string, unknown>>) => {
      ended = { ...ended, ...headers };
    };
    call.on("response", take).on("trailers", take).resume();
    call.end(Buffer.alloc(5)); // one message, of no bytes
    await once(call, "close");
    answers[name] = String(ended[CODE_KEY] ?? ended["grpc-status"]);
  }
  session.destroy();
  return answers;
}

test("every gRPC method without credentials is refused, at the cloud and at a regional gateway", async () => {
  const methods = Object.keys(ReducerServiceService);
  assert.ok(methods.length >= 5);
  const refused = Object.fromEntries(methods.map((name) => [name, "certificate-missing"]));
  for (const [where, port] of Object.entries(grpcPorts())) {
    assert.deepEqual(await callAll(port, {}), refused, where);
    const { key, cert } = shown;
    // It is who asks that matters: the same calls of a gateway are heard.
    for (const [name, code] of Object.entries(await callAll(port, { key, cert })))
      assert.doesNotMatch(code, /^certificate|undefined/, `${where} ${name}`);
  }
});

type Asked = { readonly method: string; readonly path: string };

function ask(
  { method, path }: Asked,
  credentials: object,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const place = { host, port: cloud.httpPort, method, path, ca: shown.ca, agent: false };
    const sent = request({ ...place, ...credentials }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
    });
    sent.on("error", reject).end();
  });
}

test("a gateway's certificate used as a user opens no REST route, nor does nothing at all", async () => {
  const { text } = await ask({ method: "GET", path: "/api/v1/openapi.json" }, {});
  type Operations = Record<string, { security?: unknown[] }>;
  const { paths } = JSON.parse(text) as { paths: Record<string, Operations> };
  const { key, cert } = shown;
  const bearer = { authorization: `Bearer ${Buffer.from(cert).toString("base64url")}` };
  let routes = 0;
  for (const [path, operations] of Object.entries(paths))
    for (const [method, { security }] of Object.entries(operations)) {
      if (security === undefined || security.length === 0) continue;
      routes++;
      const asked = { method: method.toUpperCase(), path: path.replace(/\{\w+\}/g, "x.1") };
      for (const credentials of [{}, { key, cert }, { key, cert, headers: bearer }])
        assert.equal((await ask(asked, credentials)).status, 401, `${asked.method} ${path}`);
    }
  assert.ok(routes > 40, `${routes} routes`);
});

/** Whether a client that speaks TLS up to this version, and any cipher, comes through the handshake. */
function shakes(port: number, maxVersion: "TLSv1.1" | "TLSv1.2" | "TLSv1.3"): Promise<boolean> {
  const options: ConnectionOptions = {
    ...{ host, port, maxVersion, minVersion: "TLSv1", rejectUnauthorized: false },
    ciphers: "DEFAULT@SECLEVEL=0",
    key: shown.key,
    cert: shown.cert,
  };
  return new Promise((resolve) => {
    const socket = connect(options, () => {
      resolve(true);
      socket.destroy();
    });
    socket.on("error", () => resolve(false)).on("close", () => resolve(false));
  });
}

test("a downgrade of TLS is refused: gRPC and REST speak 1.3 alone, MQTT nothing before 1.2", async () => {
  const lax = createServer({ ...shown, minVersion: "TLSv1", ciphers: "DEFAULT@SECLEVEL=0" });
  lax.on("tlsClientError", () => {}).listen(0, host);
  await once(lax, "listening");
  closers.push(async () => lax.close());
  const { port } = lax.address() as AddressInfo;
  assert.ok(await shakes(port, "TLSv1.1"), "this client can speak what it is refused for");
  for (const [where, own] of Object.entries({ ...grpcPorts(), rest: cloud.httpPort })) {
    assert.ok(await shakes(own, "TLSv1.3"), where);
    assert.equal(await shakes(own, "TLSv1.2"), false, where);
  }
  assert.ok(await shakes(region.mqttPort, "TLSv1.2"));
  assert.equal(await shakes(region.mqttPort, "TLSv1.1"), false);
});

test("what the README names as proof of who may not is there", () => {
  const root = new URL("../../../", import.meta.url);
  const readme = readFileSync(new URL("test/README.md", root), "utf8");
  const [, after = ""] = readme.split("\n## Who may not\n");
  const [section = ""] = after.split("\n## ");
  const rows = [...section.matchAll(/^\| (.+) \| `(\S+\.test\.ts)` \| (.+) \|$/gm)];
  assert.ok(rows.length > 20, `${rows.length} rows`);
  for (const [, row, file = "", name = ""] of rows)
    assert.ok(readFileSync(new URL(file, root), "utf8").includes(name), `${row}: ${file}: ${name}`);
});
