import assert from "node:assert/strict";
import { test } from "node:test";
import { loadConfig, redact } from "@tributary/proto/host/config.js";
import { configSchema, plainListeners, secretKeys } from "./config.js";

const load = (env: Record<string, string>) =>
  loadConfig({ env, envPrefix: "T_", schema: configSchema });

test("a data directory is enough, and everything listens on this machine alone", async () => {
  const config = await load({ T_DATA_DIR: "d" });
  assert.deepEqual(config.grpc, { host: "127.0.0.1", port: 7443, plain: false });
  assert.deepEqual(config.http, { host: "127.0.0.1", port: 7480, plain: false });
  assert.deepEqual(config.store, {});
});

test("a listener in the clear is reached from a network only by an explicit setting", async () => {
  for (const host of ["0.0.0.0", "::", "10.0.0.1", "cloud.example", "127.0.0.1.example"])
    for (const side of ["GRPC", "HTTP"]) {
      const config = await load({ T_DATA_DIR: "d", [`T_${side}__HOST`]: `"${host}"` });
      assert.throws(() => plainListeners(config, false), /cloud init/);
      assert.deepEqual(plainListeners(config, true), [], "over TLS anybody may come");
      assert.deepEqual(plainListeners({ ...config, insecure: true }, false), ["grpc", "http"]);
    }
  for (const host of ["127.8.8.8", "localhost", "::1"]) {
    const config = await load({ T_DATA_DIR: "d", T_GRPC__HOST: `"${host}"` });
    assert.deepEqual(plainListeners(config, false), ["grpc", "http"]);
  }
  const behind = await load({ T_DATA_DIR: "d", T_HTTP__PLAIN: "true" });
  assert.deepEqual(plainListeners(behind, true), ["http"]);
  const open = await load({ T_DATA_DIR: "d", T_HTTP__PLAIN: "true", T_HTTP__HOST: "10.0.0.1" });
  assert.throws(() => plainListeners(open, true), /leave out `plain`/);
});

test("settings that contradict each other are errors", async () => {
  await assert.rejects(
    load({ T_DATA_DIR: "d", T_HTTP__PORT: "7443" }),
    /must differ from grpc.port/,
  );
  await load({ T_DATA_DIR: "d", T_HTTP__PORT: "0", T_GRPC__PORT: "0" });
  await assert.rejects(
    load({ T_DATA_DIR: "d", T_HEARTBEAT_INTERVAL_MS: "3000", T_HEARTBEAT_MISSED_MS: "5000" }),
    /at least twice heartbeatIntervalMs/,
  );
});

test("a typo, a missing directory and another database are named", async () => {
  await assert.rejects(load({}), /dataDir/);
  await assert.rejects(load({ T_DATA_DIR: "d", T_STOR__URL: "x" }), /did you mean "store"/);
  await assert.rejects(load({ T_DATA_DIR: "d", T_STORE__URL: "mysql://h/d" }), /postgres:\/\/ URL/);
});

test("the store's URL, which holds a password, is not printed", async () => {
  const config = await load({ T_DATA_DIR: "d", T_STORE__URL: "postgres://u:secret@h/d" });
  assert.doesNotMatch(JSON.stringify(redact(config, secretKeys)), /secret/);
});
