import assert from "node:assert/strict";
import { test } from "node:test";
import { linkReason } from "./link-reason.js";

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
});
