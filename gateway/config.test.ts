import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { authorityPlaceOf, configSchema, plainOverNetwork } from "./config.js";
import { readGatewayConfig } from "./main.js";

const least = { site: "plant", gateway: "gw-1", dataDir: "data", upstream: "127.0.0.1:7000" };
const problem = (changes: object) => {
  const parsed = configSchema.safeParse({ ...least, ...changes });
  return parsed.success ? undefined : parsed.error.issues[0]?.message;
};

describe("the config", () => {
  it("needs four settings and has defaults for the rest", () => {
    const config = configSchema.parse(least);
    assert.deepEqual(config.listen, { host: "127.0.0.1", port: 1883 });
    assert.equal(config.uploadSlots, 4);
    for (const key of Object.keys(least)) assert.ok(problem({ [key]: undefined }), key);
  });

  it("keeps a gateway without an identity to this machine, unless it is told otherwise", () => {
    const places = (changes: object) =>
      plainOverNetwork(configSchema.parse({ ...least, ...changes }));
    for (const host of ["0.0.0.0", "::", "192.168.1.5", "example.com", "127.0.0.1.example.com"])
      for (const changes of [
        { listen: { host } },
        { downstream: { listen: { host } } },
        { upstream: `${host.includes(":") ? `[${host}]` : host}:7443` },
      ]) {
        assert.throws(() => places(changes), /gateway enrol/, host);
        assert.equal(places({ ...changes, insecure: true }).length, 1, host);
      }
    for (const host of ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
      assert.deepEqual(places({ listen: { host }, upstream: "localhost:7443" }), [], host);
  });

  it("finds the authority beside the upstream, or where it is told to look, behind a proxy or not", () => {
    const place = (changes: object) =>
      authorityPlaceOf(configSchema.parse({ ...least, ...changes }));
    assert.deepEqual(place({ upstream: "cloud.example:7443" }), {
      host: "cloud.example",
      port: 7480,
    });
    const proxy = "http://10.0.0.9:3128";
    assert.deepEqual(place({ authority: "https://[::2]:99", proxy }), {
      host: "::2",
      port: 99,
      proxy: { host: "10.0.0.9", port: 3128 },
    });
    assert.deepEqual(place({ authority: "https://api.example" }), {
      host: "api.example",
      port: 443,
    });
    for (const authority of ["http://a:1", "https://a:1/x", "https://u@a", "a:1", "https://a?x"])
      assert.match(problem({ authority }) ?? "", /like https/, authority);
    assert.match(problem({ proxy: "https://a:1" }) ?? "", /like http:/);
  });

  it("refuses what does not fit together, and typos", () => {
    assert.match(problem({ reconnect: { baseMs: 500, capMs: 100 } }) ?? "", /baseMs/);
    assert.match(problem({ absentGraceMs: 50 }) ?? "", /absentGraceMs/);
    assert.match(problem({ budgetBytes: 1 << 20, buffers: { logsBytes: 1 << 19 } }) ?? "", /half/);
    assert.equal(problem({ buffers: { logsBytes: 1 << 20, metricsBytes: 1 << 20 } }), undefined);
    assert.match(problem({ upstream: "cloud" }) ?? "", /host:port/);
    assert.match(problem({ uploadSlot: 3 }) ?? "", /[Uu]nrecognized/);
    assert.ok(problem({ gateway: "gw 1" }));
  });

  it("refuses an upstream that cannot be one, and two listeners in one place", () => {
    const downstream = { listen: { port: 7444 } };
    for (const [changes, path, message] of [
      [{ upstream: "127.0.0.1:0" }, "upstream", /between 1 and 65535/],
      [{ upstream: "cloud.example:70000" }, "upstream", /between 1 and 65535/],
      [{ upstream: "localhost:1883" }, "upstream", /own listen/],
      [{ upstream: "127.0.0.1:7481" }, "upstream", /own status/],
      [{ upstream: "127.0.0.1:7444", downstream }, "upstream", /own downstream\.listen/],
      [{ upstream: "[::1]:7481", status: { host: "::" } }, "upstream", /own status/],
      [{ listen: { port: 7481 } }, "status.port", /port of listen/],
      [{ listen: { port: 7444 }, downstream }, "downstream.listen.port", /port of listen/],
      [{ downstream, status: { host: "0.0.0.0", port: 7444 } }, "status.port", /of downstream/],
    ] as const) {
      const issues = configSchema.safeParse({ ...least, ...changes }).error?.issues ?? [];
      assert.equal(issues[0]?.path.join("."), path, JSON.stringify(changes));
      assert.match(issues[0]?.message ?? "", message);
    }
    for (const changes of [
      { upstream: "cloud.example:1883" },
      { upstream: "127.0.0.2:1883" },
      { upstream: "10.0.0.7:7481", status: { host: "0.0.0.0" } },
      { listen: { port: 0 }, status: { port: 0 }, downstream: { listen: { port: 0 } } },
      { listen: { port: 7481 }, status: { enabled: false } },
      { listen: { host: "127.0.0.2", port: 7481 } },
    ]) {
      assert.equal(problem(changes), undefined, JSON.stringify(changes));
    }
  });

  it("is read from the environment over the file", async () => {
    const env = {
      TRIBUTARY_GATEWAY_SITE: "plant",
      TRIBUTARY_GATEWAY_GATEWAY: "gw-2",
      TRIBUTARY_GATEWAY_DATA_DIR: "/data",
      TRIBUTARY_GATEWAY_UPSTREAM: "localhost:7000",
      TRIBUTARY_GATEWAY_LISTEN__PORT: "0",
    };
    const config = await readGatewayConfig({ env });
    assert.equal(config.gateway, "gw-2");
    assert.equal(config.listen.port, 0);
    await assert.rejects(readGatewayConfig({ env: {} }), (error) => {
      return error instanceof TributaryError && error.code === "config-invalid";
    });
  });
});
