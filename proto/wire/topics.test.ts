import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { allTopic, downTopic, parseTopic, upTopic } from "./topics.js";

const id = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/);

test("every topic that is built parses back", () => {
  fc.assert(
    fc.property(id, id, (site, device) => {
      assert.deepEqual(parseTopic(upTopic(site, device, "begin")), {
        way: "up",
        site,
        device,
        kind: "begin",
      });
      assert.deepEqual(parseTopic(downTopic(site, device, "offer")), {
        way: "down",
        site,
        device,
        kind: "offer",
      });
      assert.deepEqual(parseTopic(allTopic(site, "published")), {
        way: "all",
        site,
        kind: "published",
      });
    }),
  );
});

test("nothing outside the grammar parses", () => {
  for (const topic of [
    "",
    "tributary/v1",
    "tributary/v2/s/up/d/hello",
    "tributary/v1/s/up/d/offer",
    "tributary/v1/s/down/d/hello",
    "tributary/v1/s/all/hello",
    "tributary/v1/s/all/published/x",
    "tributary/v1/s/up/d/hello/x",
    "tributary/v1/+/up/d/hello",
    "tributary/v1/s/up/#",
    "tributary/v1/__proto__/up/d/hello",
    "tributary/v1/s/up/__proto__/hello",
    "tributary/v1/s/up/d/__proto__",
    "tributary/v1/s/up/d/constructor",
    "$SYS/x",
    `tributary/v1/${"s".repeat(65)}/up/d/hello`,
    "x".repeat(70_000),
  ]) {
    assert.equal(parseTopic(topic), undefined, topic.slice(0, 60));
  }
});

test("any text parses or does not, and never throws", () => {
  fc.assert(fc.property(fc.string({ maxLength: 80 }), (topic) => parseTopic(topic) === undefined));
});
