import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createTopicAccess } from "./topic-access.js";

const access = createTopicAccess("plant");
const root = "tributary/v1/plant";

describe("topics of a device", () => {
  it("to publish on are those right under its own up", () => {
    assert.ok(access.mayPublish("dev-a", `${root}/up/dev-a/begin`));
    assert.ok(access.mayPublish("dev-a", `${root}/up/dev-a/unheard-of`));
    for (const topic of [
      `${root}/up/dev-b/begin`,
      `${root}/up/dev-a/begin/more`,
      `${root}/up/dev-a`,
      `${root}/up/dev-ab/begin`,
      `${root}/down/dev-a/offer`,
      `${root}/all/published`,
      "tributary/v1/other/up/dev-a/begin",
      "tributary/v2/plant/up/dev-a/begin",
      `/${root}/up/dev-a/begin`,
      `$share/g/${root}/up/dev-a/begin`,
      "$SYS/x",
      "",
    ]) {
      assert.ok(!access.mayPublish("dev-a", topic), topic);
    }
  });

  it("to receive from are those of its own down, and the site's all", () => {
    assert.ok(access.mayReceive("dev-a", `${root}/down/dev-a/offer`));
    assert.ok(access.mayReceive("dev-a", `${root}/all/published`));
    for (const topic of [
      `${root}/down/dev-b/offer`,
      `${root}/down/dev-a/unheard-of`,
      `${root}/up/dev-a/begin`,
      "tributary/v1/other/all/published",
      "tributary/v1/other/down/dev-a/offer",
      "$SYS/x/heartbeat",
      "will",
    ]) {
      assert.ok(!access.mayReceive("dev-a", topic), topic);
      assert.ok(!access.maySubscribe("dev-a", topic), topic);
    }
  });

  it("to subscribe to are those, one by one or by the two filters of the protocol", () => {
    assert.ok(access.maySubscribe("dev-a", `${root}/down/dev-a/offer`));
    assert.ok(access.maySubscribe("dev-a", `${root}/down/dev-a/+`));
    assert.ok(access.maySubscribe("dev-a", `${root}/all/+`));
    assert.ok(!access.mayReceive("dev-a", `${root}/all/+`), "a filter is no topic");
  });
});
