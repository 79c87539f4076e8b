import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type FakeCloud, fakeCloud } from "./testing/cloud.js";
import { runHere } from "./testing/command.js";

let items: object[] = [];
let cloud: FakeCloud;
before(async () => {
  cloud = await fakeCloud(({ path }) => (path === "/alarms" ? { json: { items } } : undefined));
});
after(() => cloud.close());

const alarm = (name: string, about: string | null, fields: object) => {
  const lastAtMs = Date.now() - 3 * 3_600_000;
  return { name, about, fields, times: 2, firstAtMs: lastAtMs - 3_600_000, lastAtMs };
};

test("alarms are shown with what they say, and as they come with --json", async () => {
  assert.equal((await runHere(["alarms", "--url", cloud.url])).stdout, "no alarm\n");
  items = [
    alarm("challenge-failed", "north-1", { gateway: "north-1", message: "a sum that is not" }),
    alarm("denylist-late", "south-1", { gateway: "south-1", sequence: 7 }),
    alarm("audit-failed", null, { action: "revoke" }),
  ];
  const { stdout } = await runHere(["alarms", "--url", cloud.url]);
  assert.match(stdout, /^challenge-failed +north-1 +2 +4 h ago +3 h ago +a sum that is not$/m);
  assert.match(stdout, /^denylist-late +south-1 .* sequence 7$/m);
  assert.match(stdout, /^audit-failed +- .* action revoke$/m);
  const json = await runHere(["alarms", "--json", "--url", cloud.url]);
  assert.deepEqual(JSON.parse(json.stdout), items);
});
