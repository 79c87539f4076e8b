import assert from "node:assert/strict";
import { request as httpRequest } from "node:http";
import { after, before, describe, test } from "node:test";
import { systemClock } from "@tributary/proto/host/clock.js";
import { fakeSessions } from "../testing/fake-sessions.js";
import type { ApiPorts } from "./ports.js";
import { type RunningApi, startApi } from "./server.js";

describe("REST API on a socket", () => {
  let running: RunningApi;
  let release = () => {};

  before(async () => {
    const ports = {
      access: {},
      sessions: fakeSessions([]),
      clock: systemClock(),
      events: () => undefined,
      version: "0.1.0",
      store: {},
      models: {
        async importFile(_name: string, pieces: AsyncIterable<Uint8Array>) {
          for await (const piece of pieces)
            if (piece.length > 0)
              return { ok: false, code: "too-large", message: "enough of this" } as const;
          throw new Error("no piece came");
        },
      },
    };
    running = await startApi({ host: "127.0.0.1", port: 0 }, ports as unknown as ApiPorts);
  });
  after(async () => {
    release();
    await running?.close();
  });

  test("an upload that is refused in the middle gets its answer, not a reset", async () => {
    const answer = await new Promise<{ status: number; body: string }>((resolve, reject) => {
      const outgoing = httpRequest({
        host: "127.0.0.1",
        port: running.port,
        path: "/api/v1/models?name=x",
        method: "POST",
        headers: { "content-type": "application/octet-stream", "transfer-encoding": "chunked" },
      });
      release = () => outgoing.destroy();
      outgoing.on("response", (response) => {
        let body = "";
        response.setEncoding("utf8");
        response.on("data", (text) => {
          body += text;
        });
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
      });
      outgoing.on("error", reject);
      outgoing.write(Buffer.alloc(64 * 1024));
    });
    assert.equal(answer.status, 413);
    assert.equal(JSON.parse(answer.body).code, "too-large");
  });
});
