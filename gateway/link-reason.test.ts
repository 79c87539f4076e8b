import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { test } from "node:test";
import { systemClock } from "@tributary/proto/host/clock.js";
import { linkReason } from "./link-reason.js";
import { createUpstream } from "./upstream.js";

test("what gRPC says of a link that fails is put in plain words", () => {
  const refused =
    "14 UNAVAILABLE: No connection established. Last error: Error: connect ECONNREFUSED 127.0.0.1:7. Resolution note: ";
  assert.equal(
    linkReason({ message: refused }),
    "the upstream cannot be reached: nothing listens there",
  );
  const unknown = { message: "14 UNAVAILABLE: x", details: "getaddrinfo ENOTFOUND cloud.example" };
  assert.match(linkReason(unknown), /its name is not known/);
  assert.equal(linkReason({ message: "1 CANCELLED: Call cancelled" }), "Call cancelled");
  assert.equal(linkReason({ message: "no welcome came" }), "no welcome came");
  const unresolved = "14 UNAVAILABLE: Name resolution failed for target dns:cloud.example:7443";
  assert.match(linkReason({ message: unresolved }), /its name is not known/);
  assert.match(linkReason({ message: "4 DEADLINE_EXCEEDED: Deadline exceeded" }), /not answer/);
  const other =
    "14 UNAVAILABLE: No connection established. Last error: Protocol error (2026-11-24T18:00:00.000Z). Resolution note: ";
  assert.equal(linkReason({ message: other }), "no connection: Protocol error");
});

test("a peer that takes the connection and closes it at once is said to do so", async (t) => {
  const server = createServer((socket) => socket.destroy());
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const upstream = createUpstream(`127.0.0.1:${port}`, systemClock());
  t.after(() => upstream.close());
  const call = upstream.attach();
  const message = await new Promise<string>((resolve) => {
    call.on("error", (error) => resolve(error.message));
  });
  assert.equal(message, "the upstream cannot be reached: it closes the connection");
});
