import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { checkChain } from "../audit/chain.js";
import { type SecuredApi, securedApi } from "../testing/secured-api.js";

const file = Buffer.from(
  encodeSafetensors([{ name: "w", shape: [4] }], Float32Array.of(1, 2, 3, 4)),
);

describe("people and programs", () => {
  let secured: SecuredApi;
  let owner: string;
  before(async () => {
    secured = await securedApi();
    owner = await secured.token([{ project: "*", role: "owner" }], { sub: "ada" });
    for (const id of ["red", "blue"]) {
      const made = await secured.ask("POST", "/projects", owner, { id });
      assert.equal(made.status, 201);
      const model = await secured.ask("POST", `/models?name=${id}&project=${id}`, owner, file);
      assert.equal(model.status, 201, JSON.stringify(model.body));
      const session = { name: `${id}-run`, initialModel: `${id}.0`, project: id };
      assert.equal((await secured.ask("POST", "/sessions", owner, session)).status, 201);
    }
    const sites = ["s1", "s2", "s3"];
    const seen = { incarnation: "i", softwareVersion: "1", attached: true, connectedDevices: 1 };
    const outbox = { outboxPartials: 0, outboxBytes: 0, oldestAgeMs: 0, freeDiskBytes: 1 };
    const figures = { budgetBytes: 1, roundTripMs: 1, clockOffsetMs: 0, classes: {} };
    const counts = { refusals: {}, duplicatesDropped: 0, firstSeenMs: 1, lastSeenMs: 2 };
    const gateways = sites.map((site) => ({ id: `g-${site}`, site, ...seen, ...outbox }));
    await secured.store.saveGateways(gateways.map((one) => ({ ...one, ...figures, ...counts })));
    const device = { sdk: "s", attributes: {}, connected: true, firstSeenMs: 1, lastSeenMs: 2 };
    await secured.store.saveDevices(
      sites.map((site) => ({
        id: `d-${site}`,
        site,
        gateway: `g-${site}`,
        via: `g-${site}`,
        ...device,
      })),
    );
    for (const [id, site] of [
      ["red", "s1"],
      ["blue", "s2"],
    ])
      assert.equal(
        (await secured.ask("POST", `/projects/${id}/sites`, owner, { site })).status,
        200,
      );
  });
  after(() => secured?.close());

  const refused = async (
    call: ReturnType<SecuredApi["ask"]>,
    status: number,
    code: string,
  ): Promise<void> => {
    const answer = await call;
    assert.deepEqual([answer.status, answer.code], [status, code]);
  };
  const ids = (answer: { body: { items: { id: string }[] } }) =>
    answer.body.items.map(({ id }) => id);

  test("a viewer that starts a session is refused", async () => {
    const viewer = await secured.token([{ project: "red", role: "viewer" }]);
    const session = { name: "mine", initialModel: "red.0", project: "red" };
    await refused(secured.ask("POST", "/sessions", viewer, session), 403, "forbidden");
    await refused(secured.ask("POST", "/sessions/red-run/stop", viewer), 403, "forbidden");
    assert.equal((await secured.ask("GET", "/sessions/red-run", viewer)).status, 200);
  });

  test("a project's member that reads another's models is refused, and is shown none", async () => {
    const trainer = await secured.token([{ project: "red", role: "trainer" }]);
    assert.deepEqual(ids(await secured.ask("GET", "/models", trainer)), ["red.0"]);
    assert.equal((await secured.ask("GET", "/models/red.0", trainer)).status, 200);
    for (const path of ["", "/trail", "/contributions", "/file"]) {
      await refused(secured.ask("GET", `/models/blue.0${path}`, trainer), 403, "forbidden");
      // Nor does he learn whether there is one.
      await refused(secured.ask("GET", `/models/none.0${path}`, trainer), 403, "forbidden");
    }
    await refused(secured.ask("POST", "/models/blue.0/activate", trainer), 403, "forbidden");
    const mine = { name: "mine", initialModel: "blue.0", project: "red" };
    await refused(secured.ask("POST", "/sessions", trainer, mine), 400, "invalid-request");
    const theirs = { name: "mine", initialModel: "blue.0", project: "blue" };
    await refused(secured.ask("POST", "/sessions", trainer, theirs), 403, "forbidden");
    await refused(
      secured.ask("POST", "/sessions", trainer, { name: "mine", initialModel: "red.0" }),
      403,
      "forbidden",
    );
    await refused(
      secured.ask("POST", "/models?name=m&project=blue", trainer, file),
      403,
      "forbidden",
    );
    await refused(secured.ask("POST", "/models?name=m", trainer, file), 403, "forbidden");
  });

  test("sessions, sites and devices of another project are not shown either", async () => {
    const viewer = await secured.token([{ project: "red", role: "viewer" }]);
    assert.deepEqual(ids(await secured.ask("GET", "/sessions", viewer)), ["red-run"]);
    for (const path of ["", "/rounds", "/contributions", "/evaluations"])
      await refused(secured.ask("GET", `/sessions/blue-run${path}`, viewer), 403, "forbidden");
    assert.deepEqual(ids(await secured.ask("GET", "/gateways", viewer)), ["g-s1"]);
    assert.deepEqual(ids(await secured.ask("GET", "/devices", viewer)), ["d-s1"]);
    assert.equal((await secured.ask("GET", "/gateways/g-s1/samples", viewer)).status, 200);
    await refused(secured.ask("GET", "/gateways/g-s2/samples", viewer), 403, "forbidden");
    await refused(secured.ask("GET", "/events", viewer), 403, "forbidden");
    assert.deepEqual(ids(await secured.ask("GET", "/projects", viewer)), ["red"]);
    // A site that was given to nobody is in the project that everything was in before.
    const other = await secured.token([{ project: "default", role: "viewer" }]);
    assert.deepEqual(ids(await secured.ask("GET", "/gateways", other)), ["g-s3"]);
    const paged = await secured.ask("GET", "/devices?limit=2", owner);
    assert.deepEqual(ids(paged), ["d-s1", "d-s2"]);
    const rest = await secured.ask("GET", `/devices?limit=2&cursor=${paged.body.next}`, owner);
    assert.deepEqual([ids(rest), rest.body.next], [["d-s3"], null]);
  });

  test("a steward manages access and sees progress, but no model", async () => {
    const steward = await secured.token([{ project: "*", role: "steward" }], { sub: "third" });
    assert.equal((await secured.ask("GET", "/sessions/red-run", steward)).status, 200);
    await refused(secured.ask("GET", "/models", steward), 403, "forbidden");
    await refused(secured.ask("GET", "/models/red.0/file", steward), 403, "forbidden");
    const made = await secured.ask("POST", "/tokens", steward, {
      name: "trainer of red",
      roles: [{ project: "red", role: "trainer" }],
    });
    assert.equal(made.status, 201);
    assert.equal(made.headers["cache-control"], "no-store");
    assert.equal((await secured.ask("GET", "/models/red.0", made.body.text)).status, 200);
    // Not to himself, by no way, and nobody that could do what he cannot undo.
    for (const body of [
      { name: "me", subject: "third", roles: [{ project: "red", role: "viewer" }] },
      { name: "o", roles: [{ project: "red", role: "owner" }] },
      { name: "s", roles: [{ project: "*", role: "steward" }] },
    ])
      await refused(secured.ask("POST", "/tokens", steward, body), 403, "forbidden");
    const invited = await secured.ask("POST", "/projects/red/invitations", steward, {
      role: "viewer",
    });
    assert.equal(invited.status, 201);
    const invitation = invited.body.text;
    await refused(
      secured.ask("POST", "/invitations/accept", steward, { invitation }),
      403,
      "forbidden",
    );
    await refused(
      secured.ask("POST", "/projects/red/invitations", steward, { role: "owner" }),
      403,
      "forbidden",
    );
  });

  test("somebody joins a project by an invitation, once, and leaves it", async () => {
    const steward = await secured.token([{ project: "red", role: "steward" }]);
    const guest = await secured.token([], { sub: "guest" });
    await refused(secured.ask("GET", "/models/red.0", guest), 403, "forbidden");
    const { body } = await secured.ask("POST", "/projects/red/invitations", steward, {
      role: "viewer",
    });
    const accept = (token: string, invitation: string = body.text) =>
      secured.ask("POST", "/invitations/accept", token, { invitation });
    await refused(accept(guest, `${body.text.slice(0, -3)}abc`), 404, "unknown-invitation");
    await refused(accept(guest, "ti1.x"), 404, "unknown-invitation");
    assert.equal((await accept(guest)).body.role, "viewer");
    assert.equal((await secured.ask("GET", "/models/red.0", guest)).status, 200);
    await refused(secured.ask("GET", "/models/blue.0", guest), 403, "forbidden");
    const other = await secured.token([], { sub: "other" });
    await refused(accept(other), 409, "invitation-ended");
    const members = await secured.ask("GET", "/projects/red/members", steward);
    assert.deepEqual(
      members.body.items.map(({ subject }: { subject: string }) => subject),
      ["user:guest"],
    );
    const listed = await secured.ask("GET", "/projects/red/invitations", steward);
    assert.doesNotMatch(JSON.stringify(listed.body), /secret/i);
    await refused(secured.ask("GET", "/projects/blue/members", steward), 403, "forbidden");
    await refused(
      secured.ask("POST", "/projects/red/members/remove", other, { subject: "user:guest" }),
      403,
      "forbidden",
    );
    const removed = { subject: "user:guest" };
    assert.equal(
      (await secured.ask("POST", "/projects/red/members/remove", steward, removed)).status,
      200,
    );
    await refused(secured.ask("GET", "/models/red.0", guest), 403, "forbidden");
    const taken = await secured.ask("POST", "/projects/red/invitations", steward, {
      role: "viewer",
    });
    const { id } = taken.body.invitation;
    await secured.ask("POST", `/projects/red/invitations/${id}/revoke`, steward);
    await refused(accept(other, taken.body.text), 409, "invitation-ended");
    const ended = await secured.ask("POST", "/projects/red/invitations", steward, {
      role: "viewer",
      lifeMs: 1_000,
    });
    secured.clock.advance(1_000);
    await refused(accept(other, ended.body.text), 409, "invitation-ended");
  });

  test("a token of a subject that is an owner elsewhere is not made by who cannot give that", async () => {
    const { body } = await secured.ask("POST", "/projects/*/invitations", owner, { role: "owner" });
    const boss = await secured.token([], { sub: "boss" });
    assert.equal(
      (await secured.ask("POST", "/invitations/accept", boss, { invitation: body.text })).status,
      200,
    );
    assert.equal((await secured.ask("GET", "/models/blue.0", boss)).status, 200);
    const steward = await secured.token([{ project: "*", role: "steward" }]);
    const forged = { name: "boss", subject: "boss", roles: [] };
    await refused(secured.ask("POST", "/tokens", steward, forged), 403, "forbidden");
    // Nor of one that is an owner by a token: he would take that from him.
    const owning = { name: "ada", subject: "ada", roles: [] };
    await refused(secured.ask("POST", "/tokens", steward, owning), 403, "forbidden");
    await refused(
      secured.ask("POST", "/projects/*/members/remove", steward, { subject: "user:boss" }),
      403,
      "forbidden",
    );
  });

  test("a revoked token is void at once, whoever made it", async () => {
    const made = await secured.ask("POST", "/tokens", owner, {
      name: "ci",
      roles: [],
      subject: "ci",
    });
    const { token, text } = made.body;
    assert.equal((await secured.ask("GET", "/whoami", text)).status, 200);
    const viewer = await secured.token([{ project: "red", role: "viewer" }]);
    await refused(secured.ask("POST", `/tokens/${token.id}/revoke`, viewer), 404, "unknown-token");
    assert.equal(
      (await secured.ask("POST", `/tokens/${token.id}/revoke`, owner)).body.state,
      "revoked",
    );
    await refused(secured.ask("GET", "/whoami", text), 401, "token-revoked");
    // Of keys made beside the cloud: on record from its first use on.
    const own = await secured.token([{ project: "*", role: "owner" }], { jti: "bootstrap" });
    assert.equal((await secured.ask("GET", "/whoami", own)).status, 200);
    const listed = ids(await secured.ask("GET", "/tokens?limit=500", owner));
    assert.ok(listed.includes("bootstrap") && listed.includes(token.id));
    assert.equal((await secured.ask("POST", "/tokens/bootstrap/revoke", owner)).status, 200);
    await refused(secured.ask("GET", "/whoami", own), 401, "token-revoked");
    const mine = ids(await secured.ask("GET", "/tokens", viewer));
    assert.equal(mine.length, 1);
    assert.equal((await secured.ask("POST", `/tokens/${mine[0]}/revoke`, viewer)).status, 200);
    await refused(secured.ask("GET", "/whoami", viewer), 401, "token-revoked");
  });

  test("every change and every refusal is a line of the audit log, which is one chain", async () => {
    await refused(secured.ask("POST", "/projects", owner, { id: "red" }), 409, "project-exists");
    const all: { actor: string; action: string; outcome: string; target: string }[] = [];
    const check = checkChain();
    for (let cursor = ""; ; ) {
      const { body } = await secured.ask("GET", `/audit?limit=50${cursor}`, owner);
      for (const line of body.items) {
        assert.equal(check.take(line), undefined);
        all.push(line);
      }
      if (body.next === null) break;
      cursor = `&cursor=${body.next}`;
    }
    assert.equal(check.head().sequence, all.length);
    const has = (wanted: Partial<(typeof all)[number]>) =>
      assert.ok(
        all.some((line) =>
          Object.entries(wanted).every(([name, value]) => line[name as "actor"] === value),
        ),
        JSON.stringify(wanted),
      );
    has({ actor: "user:ada", action: "POST /projects", outcome: "done" });
    has({ actor: "user:ada", action: "POST /projects", outcome: "project-exists" });
    has({ action: "POST /models", outcome: "done", actor: "user:ada" });
    has({ action: "POST /models", outcome: "forbidden" });
    has({ action: "GET /models/:id/file", target: "/models/blue.0/file", outcome: "forbidden" });
    has({ action: "POST /tokens/:id/revoke", outcome: "done" });
    has({ action: "POST /invitations/accept", actor: "user:guest", outcome: "done" });
    has({ action: "GET /whoami", outcome: "token-revoked" });
    assert.ok(!JSON.stringify(all).includes("ti1."));
    const filtered = await secured.ask("GET", "/audit?actor=user:guest&outcome=done", owner);
    assert.ok(filtered.body.items.length > 0);
    for (const line of filtered.body.items) assert.equal(line.actor, "user:guest");
    const auditor = await secured.token([{ project: "blue", role: "auditor" }]);
    const part = await secured.ask("GET", "/audit?limit=500", auditor);
    assert.ok(part.body.items.length > 0);
    for (const line of part.body.items) assert.equal(line.project, "blue");
    assert.deepEqual((await secured.ask("GET", "/audit?project=red", auditor)).body.items, []);
    const viewer = await secured.token([{ project: "blue", role: "viewer" }]);
    await refused(secured.ask("GET", "/audit", viewer), 403, "forbidden");
  });
});
