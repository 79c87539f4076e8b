import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { refuse } from "@tributary/proto/wire/verdict.js";
import { openEmbedded } from "../store/embedded.js";
import { createStore, type SqlStore } from "../store/open.js";
import type { Sql } from "../store/sql.js";
import { type Audit, createAudit } from "./audit.js";
import { type AuditEntry, type AuditLine, checkChain } from "./chain.js";
import { auditLimits } from "./limits.js";
import { type PendingLine, withPending } from "./pending.js";

const entry: AuditEntry = {
  atMs: 5,
  actor: "user:ada",
  action: "POST /projects",
  target: "/projects",
  project: null,
  outcome: "done",
  detail: {},
};

describe("the audit log in the store", () => {
  let dir: string;
  let sql: Sql;
  let store: SqlStore;
  const clock = createManualClock(1_800_000_000_000);
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "tributary-audit-"));
    sql = await openEmbedded(dir);
    store = await createStore(sql);
  });
  after(async () => {
    await store?.close();
    await rm(dir, { recursive: true, force: true });
  });

  const lines = async (): Promise<readonly AuditLine[]> => {
    const all: AuditLine[] = [];
    for (let after: number | undefined; ; ) {
      const slice = await store.audit.list({}, { after, limit: 1_000 });
      all.push(...slice.items);
      after = slice.next;
      if (after === undefined) return all;
    }
  };
  const newAudit = (): Audit => createAudit(store.audit, clock, () => undefined);
  const project = (id: string) => ({ id, name: id, createdAtMs: 1 });

  test("a line is in the transaction of the change, once, or nowhere", async () => {
    const pending: PendingLine = { entry };
    await assert.rejects(
      withPending(pending, () =>
        store.access.change(async (rows) => {
          await rows.addProject(project("a"));
          throw new Error("broke");
        }),
      ),
      /broke/,
    );
    assert.deepEqual([await lines(), await store.access.project("a")], [[], undefined]);
    // The next try takes the line that the failed one gave back.
    await withPending(pending, () => store.access.change((rows) => rows.addProject(project("a"))));
    await withPending(pending, () => store.access.change((rows) => rows.addProject(project("b"))));
    assert.deepEqual(
      (await lines()).map(({ sequence, actor, outcome }) => [sequence, actor, outcome]),
      [[1, "user:ada", "done"]],
    );
  });

  test("a transaction that ends with a refusal, or that nobody asked for, leaves no line", async () => {
    const before = (await lines()).length;
    const pending: PendingLine = { entry };
    await withPending(pending, () =>
      store.access.change(async () => refuse("busy", "not for now")),
    );
    await withPending(pending, () => store.access.change((rows) => rows.addProject(project("a"))));
    assert.equal(pending.entry, entry);
    await store.access.change((rows) => rows.addProject(project("c")));
    assert.equal((await lines()).length, before);
  });

  test("nobody changes or removes a line, and what was changed all the same is found", async () => {
    await newAudit().done({ ...entry, detail: { odd: "\u0000 \ud800 é", name: "x" } });
    await newAudit().done(entry);
    const check = checkChain();
    for (const line of await lines()) assert.equal(check.take(line), undefined);
    for (const statement of [
      "UPDATE audit SET actor = 'user:eve'",
      "DELETE FROM audit",
      "TRUNCATE audit",
    ])
      await assert.rejects(
        sql.write("durable", (query) => query(statement)),
        /append-only/,
      );
    await sql.write("durable", async (query) => {
      await query("ALTER TABLE audit DISABLE TRIGGER audit_append_only");
      await query("UPDATE audit SET actor = 'user:eve' WHERE sequence = 2");
      await query("ALTER TABLE audit ENABLE TRIGGER audit_append_only");
    });
    const [first, second] = await lines();
    assert.ok(first && second);
    const again = checkChain();
    assert.equal(again.take(first), undefined);
    assert.deepEqual(again.take(second), { sequence: 2, fault: "altered" });
  });

  test("like refusals are one line, and one more with their number", async () => {
    const audit = newAudit();
    const before = (await lines()).length;
    const refused = { ...entry, actor: "address:10.0.0.9", outcome: "unauthenticated" };
    for (let time = 0; time < 50; time++) await audit.refused(refused);
    await audit.refused({ ...refused, outcome: "token-expired" });
    assert.equal((await lines()).length, before + 2);
    clock.advance(auditLimits.refusalWindowMs);
    await audit.close();
    const added = (await lines()).slice(before + 2);
    assert.deepEqual(
      added.map(({ outcome, detail }) => [outcome, detail]),
      [["unauthenticated", { times: "49" }]],
    );
  });

  test("refusals of very many callers do not fill the log", async () => {
    const audit = newAudit();
    const before = (await lines()).length;
    const spare = 10;
    for (let from = 0; from < auditLimits.refusalKinds + spare; from++)
      await audit.refused({ ...entry, actor: `address:${from}`, outcome: "unauthenticated" });
    await audit.close();
    const added = (await lines()).slice(before);
    assert.ok(added.length <= auditLimits.refusalKinds + 2, `${added.length}`);
    const many = added.filter(({ actor }) => actor === "many");
    assert.deepEqual(
      many.map(({ detail }) => detail),
      [{}, { times: `${spare - 1}` }],
    );
  });

  test("work that did not come by the API leaves its line, too", async () => {
    const audit = newAudit();
    const before = (await lines()).length;
    const what = { actor: "newcomer", action: "enrol", target: "enrolment" };
    await audit.follow(what, async () => {
      await store.access.change((rows) => rows.addProject(project("d")));
      return { ok: true as const };
    });
    await audit.follow(what, async () => ({ ok: true as const }));
    await audit.follow(what, async () => refuse("claim-used", "it was used"));
    assert.deepEqual(
      (await lines()).slice(before).map(({ outcome }) => outcome),
      ["done", "done", "claim-used"],
    );
    await audit.close();
  });
});
