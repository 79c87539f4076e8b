import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readdir, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { createListAssembly, listParts } from "@tributary/proto/wire/list-parts.js";
import { importDenylist } from "./denylist-import.js";
import { createTestFleet, plainLinks } from "./testing/fleet.js";
import { createStage } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

const press7 = { kind: "device", name: "press-7", before: 100 } as const;
const sequences = (held: { denylists: { gateway: string; sequence: bigint }[] } | undefined) =>
  held?.denylists.map(({ gateway, sequence }) => `${gateway} ${sequence}`);

describe("a gateway's denylist", () => {
  it("is the newest of the fleet's that came, by the upstream as by others, and never goes back", async () => {
    const fleet = createTestFleet();
    const reducer = await stage.reducer();
    const identity = fleet.identity("gw-1");
    const gateway = await stage.gateway(
      await stage.dataDir(),
      reducer.address,
      {},
      plainLinks(identity, reducer.address),
    );
    const held = () => sequences(reducer.heard("trustHeld").at(-1));
    await until("it says that it has none", () => held()?.[0] === "gw-1 0");
    const tell = (denylist: string, sequence: number) =>
      reducer.tell({ $case: "trust", value: { denylistSequence: BigInt(sequence), denylist } });
    const refused = () => gateway.events.filter(({ name }) => name === "denylist-refused").length;

    tell(await fleet.list(5, press7), 5);
    await until("it holds the list", () => held()?.[0] === "gw-1 5");
    tell(await fleet.list(4), 4);
    tell(await createTestFleet().list(6), 6);
    tell("no list", 7);
    await until("three are refused", () => refused() === 3);
    assert.deepEqual(
      gateway.events.flatMap((e) => (e.name === "denylist-refused" ? [e.code] : [])),
      ["denylist-old", "denylist-signature", "denylist-malformed"],
    );
    assert.equal(identity.denylist?.sequence, 5);
    identity.changed();
    assert.equal(gateway.events.filter(({ name }) => name === "denylist-taken").length, 1);
  });

  it("goes up to an upstream that holds an older one", async () => {
    const fleet = createTestFleet();
    const reducer = await stage.reducer();
    const identity = fleet.identity("gw-1");
    await identity.takeDenylist(await fleet.list(9, press7));
    await stage.gateway(
      await stage.dataDir(),
      reducer.address,
      {},
      plainLinks(identity, reducer.address),
    );
    await until("it attached", () => reducer.heard("trustHeld").length > 0);
    reducer.tell({ $case: "trust", value: { denylistSequence: 9n, denylist: "" } });
    reducer.tell({ $case: "trust", value: { denylistSequence: 8n, denylist: "" } });
    await until("it is sent", () => reducer.heard("trust").length > 0);
    assert.deepEqual(reducer.heard("trust"), [
      { denylistSequence: 9n, denylist: identity.denylistText },
    ]);
  });

  it("passes a gateway above gateways in both directions, and all are reported", async () => {
    const fleet = createTestFleet();
    const reducer = await stage.reducer();
    const [above, below] = [fleet.identity("region"), fleet.identity("gw-1")];
    const settings = { gateway: "region", site: "hub", downstream: { listen: { port: 0 } } };
    const region = await stage.gateway(
      await stage.dataDir(),
      reducer.address,
      settings,
      plainLinks(above, reducer.address),
    );
    await below.takeDenylist(await fleet.list(3));
    const upstream = `127.0.0.1:${region.downstreamPort}`;
    await stage.gateway(await stage.dataDir(), upstream, {}, plainLinks(below, upstream));
    const held = () => sequences(reducer.heard("trustHeld").at(-1));
    await until("the leaf's reaches the region", () => above.denylist?.sequence === 3);
    await until("both are reported", () => held()?.join() === "region 3,gw-1 3");
    const text = await fleet.list(4, press7);
    reducer.tell({ $case: "trust", value: { denylistSequence: 4n, denylist: text } });
    await until("the leaf holds it", () => below.denylist?.sequence === 4);
    await until("both are reported", () => held()?.join() === "region 4,gw-1 4");
  });

  it("takes effect for as long as it is held, also over a restart", async () => {
    const fleet = createTestFleet();
    const reducer = await stage.reducer();
    const identity = fleet.identity("gw-1");
    const dir = await stage.dataDir();
    const first = await stage.gateway(
      dir,
      reducer.address,
      {},
      plainLinks(identity, reducer.address),
    );
    await until("it attached", () => reducer.heard("trustHeld").length > 0);
    await identity.takeDenylist(await fleet.list(2));
    const age = () => reducer.heard("trustHeld").at(-1)?.denylists[0];
    await until("it is held", () => age()?.sequence === 2n);
    const heldMs = () => first.status().denylist?.ageMs ?? 0;
    await until("it is held for a while", () => heldMs() > 500);
    await first.close();
    const count = reducer.heard("trustHeld").length;
    await stage.gateway(dir, reducer.address, {}, plainLinks(identity, reducer.address));
    await until("it attached again", () => reducer.heard("trustHeld").length > count);
    assert.ok((age()?.ageMs ?? 0n) > 500n, "it counts from before the restart");
  });
});

describe("a denylist on the device link", () => {
  it("goes to devices that hold an older one, and to all when it changes", async () => {
    const fleet = createTestFleet();
    const identity = fleet.identity("gw-1");
    await identity.takeDenylist(await fleet.list(5, press7));
    const gateway = await stage.gateway(
      await stage.dataDir(),
      "127.0.0.1:1",
      {},
      plainLinks(identity, "127.0.0.1:1"),
    );
    const device = await stage.device(gateway, "a");
    const got = () => device.messages.filter(({ kind }) => kind === "denylist");
    assert.equal(device.got("welcome")[0]?.denylist, undefined, "an older device cannot read it");
    const hello = { sdk: "test", attributes: {} };
    await device.say("hello", { ...hello, denylist: 5 });
    assert.equal((await device.next("welcome", 2)).denylist, 5);
    await device.say("hello", { ...hello, denylist: 4 });
    await until("it is sent", () => got().length > 0);
    const assembly = createListAssembly();
    const { header, payload } = got()[0] ?? {};
    assert.equal(assembly.add(header as never, payload as Uint8Array), identity.denylistText);
    await identity.takeDenylist(await fleet.list(6));
    await until("the next comes by itself", () => got().length === 2);
    assert.match(JSON.stringify(got()[1]?.header), /"sequence":6,/);
  });

  it("is brought by a device where nothing else comes; what nobody signed is taken of nobody", async () => {
    const fleet = createTestFleet();
    const identity = fleet.identity("gw-1");
    const gateway = await stage.gateway(
      await stage.dataDir(),
      "127.0.0.1:1",
      {},
      plainLinks(identity, "127.0.0.1:1"),
    );
    const bring = async (name: string, sequence: number, text: string) => {
      const device = await stage.device(gateway, name);
      for (const [part, payload] of listParts({ sequence, text }))
        await device.say("denylist", part, payload);
      return device;
    };
    // Large enough to come in parts.
    const entries = Array.from({ length: 6_000 }, (_, i) => ({ ...press7, name: `press-${i}` }));
    const text = await fleet.list(7, ...entries);
    assert.ok([...listParts({ sequence: 7, text })].length > 1);
    await bring("honest", 7, text);
    await until("it is held", () => identity.denylist?.sequence === 7);
    assert.equal(identity.denylist?.entries.length, 6_000);

    const forged = await createTestFleet().list(8);
    const liar = await bring("liar", 8, forged);
    assert.equal((await liar.next("refusal")).code, "denylist-signature");
    const good = await fleet.list(8);
    for (const [part, payload] of listParts({ sequence: 8, text: good }))
      await liar.say("denylist", part, payload);
    assert.equal((await liar.next("refusal", 2)).code, "denylist-signature");
    assert.equal(identity.denylist?.sequence, 7);
    await bring("other", 8, good);
    await until("another's is taken", () => identity.denylist?.sequence === 8);
  });
});

describe("a denylist in a file", () => {
  it("is taken by a gateway that runs, and by one that starts; a tampered denylist and a downgrade are refused", async () => {
    const fleet = createTestFleet();
    const identity = fleet.identity("gw-1");
    const dir = await stage.dataDir();
    assert.equal(await importDenylist(dir, await fleet.list(3, press7), 0), undefined);
    await stage.gateway(dir, "127.0.0.1:1", {}, plainLinks(identity, "127.0.0.1:1"));
    assert.equal(identity.denylist?.sequence, 3, "before it listens");
    const give = (text: string) => importDenylist(dir, text, 30_000);
    assert.deepEqual(await give(`${await fleet.list(4)}\n`), { ok: true, news: true, sequence: 4 });
    assert.deepEqual(await give(await fleet.list(4)), { ok: true, news: false, sequence: 4 });
    const [head, , signature] = (await fleet.list(6, press7)).split(".");
    const nobody = { fleet: "press-works", sequence: 6, issuedAt: 6, entries: [] };
    const body = Buffer.from(JSON.stringify(nobody)).toString("base64url");
    const tampered = await give(`${head}.${body}.${signature}`);
    assert.equal(tampered?.ok === false && tampered.code, "denylist-signature");
    const codes = [];
    for (const text of [
      await fleet.list(3),
      await createTestFleet().list(5),
      "",
      "x".repeat(3e6),
    ]) {
      const answer = await give(text);
      codes.push(answer?.ok === false && answer.code);
    }
    assert.deepEqual(codes, [
      "denylist-old",
      "denylist-signature",
      "denylist-malformed",
      "denylist-malformed",
    ]);
    assert.equal(identity.denylist?.sequence, 4);
    const huge = join(dir, "import", "huge.denylist");
    await writeFile(huge, "");
    await truncate(huge, 3 * 2 ** 30); // more than could be read
    await until("it is answered", () => existsSync(`${huge}.answer`));
    await until("it is gone", () => !existsSync(huge));
    await rm(`${huge}.answer`);
    const [left, ...others] = await readdir(join(dir, "import"));
    assert.match(left ?? "", /answer$/, "nobody has waited for the first");
    assert.deepEqual(others, []);
  });
});
