import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { configSchema } from "@tributary/cloud/config.js";
import { type Answer, type Call, fakeCloud, problem } from "./testing/cloud.js";
import { runHere, tributary } from "./testing/command.js";
import { device, gateway, model, modelFile, round, session } from "./testing/samples.js";
import { defaultUrl } from "./world.js";

const scratch = mkdtempSync(join(tmpdir(), "tributary-cli-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

function scratchFile(name: string, text: string): string {
  const file = join(scratch, name);
  writeFileSync(file, text);
  return file;
}

/** Runs the command against a cloud that answers so, and gives what happened on both sides. */
async function against(answer: (call: Call) => Answer | undefined, ...args: readonly string[]) {
  const cloud = await fakeCloud(answer);
  try {
    const env = { TRIBUTARY_URL: cloud.url };
    return { ...(await runHere(args, { env })), calls: cloud.calls };
  } finally {
    await cloud.close();
  }
}

const page = (...items: readonly unknown[]): Answer => ({ json: { items, next: null } });

test("the default URL is where a cloud listens by default", () => {
  const { host, port } = configSchema.parse({ dataDir: "data" }).http;
  assert.equal(defaultUrl, `http://${host}:${port}`);
});

test("the version and help end with 0, a wrong command line with 64", async () => {
  const version = await tributary(["--version"]);
  assert.equal(version.code, 0);
  assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
  assert.equal((await tributary(["--help"])).code, 0);
  const wrong = [["sesion"], [], ["session"], ["model", "show"], ["model", "list", "--limit", "x"]];
  const refused = [...wrong, ["completion", "csh"], ["model", "list", "extra"]].map(
    async (args) => {
      const { code, stdout } = await runHere(args);
      assert.equal(code, 64, args.join(" "));
      assert.equal(stdout, "");
    },
  );
  await Promise.all(refused);
  assert.equal((await tributary(["session"])).code, 64);
  assert.match((await runHere(["sesion"])).stderr, /Did you mean session/);
});

test("a cloud that is not there ends with 69 and says what to do", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  const url = `http://127.0.0.1:${port}`;
  const { code, stdout, stderr } = await tributary(["session", "list", "--url", url]);
  assert.equal(code, 69);
  assert.equal(stdout, "");
  assert.match(stderr, /cannot reach the cloud at .*nothing listens there/);
  assert.match(stderr, /tributary cloud start/);
  const json = await runHere(["session", "list", "--json", "--url", url]);
  assert.equal(json.stdout, "");
  assert.equal(JSON.parse(json.stderr).error.code, "cloud-unreachable");
  assert.equal((await runHere(["session", "list", "--url", "nonsense"])).code, 64);
});

test("a refusal ends with 1 and shows every issue", async () => {
  const issues = [{ path: "deadlineMs", message: "must be longer than uploadWindowMs" }];
  const refused = await against(
    () => problem(400, "invalid-request", "deadlineMs: must be", issues),
    ..."session start --name spring --initial-model a.0".split(" "),
  );
  assert.equal(refused.code, 1);
  assert.match(
    refused.stderr,
    / {2}deadlineMs: must be longer than uploadWindowMs \[invalid-request\]/,
  );
  const cloud = await fakeCloud(() => undefined);
  const unknown = await tributary(["session", "show", "x", "--url", cloud.url]);
  await cloud.close();
  assert.equal(unknown.code, 1);
  assert.match(unknown.stderr, /^tributary: no such route \[unknown-route\]\n$/);
  const broken = await against(() => problem(503, "busy", "try again"), "session", "list");
  assert.equal(broken.code, 69);
  const alien = await against(
    () => ({ status: 404, bytes: Buffer.from("<p>") }),
    "session",
    "list",
  );
  assert.match(alien.stderr, /no problem document; is this the cloud's URL/);
});

test("an answer that is not what the API promises ends with 69", async () => {
  const answers = [{ bytes: Buffer.from("<html>") }, { json: [1] }, { json: { items: 3 } }];
  for (const answer of answers) {
    const { code, stdout } = await against(() => answer, "gateway", "list");
    assert.equal(code, 69);
    assert.equal(stdout, "");
  }
});

test("lists are tables of at most 80 columns, and JSON with --json", async () => {
  const long = "a-rather-long-identifier-of-the-longest-length-that-there-can-be";
  const lists = [
    { args: ["session", "list"], item: { ...session, id: long, head: `${long}.999999` } },
    { args: ["model", "list"], item: { ...model, id: `${long}.12`, parent: `${long}.11` } },
    { args: ["model", "trail", "spring.11"], item: model },
    { args: ["gateway", "list"], item: { ...gateway, id: long, site: long } },
    { args: ["device", "list"], item: { ...device, id: long, site: long, gateway: long } },
  ];
  for (const { args, item } of lists) {
    const { code, stdout } = await against(() => page(item, item), ...args);
    assert.equal(code, 0);
    const lines = stdout.trimEnd().split("\n");
    assert.equal(lines.length, 3);
    for (const line of lines) assert.ok(line.length <= 80, line);
    const json = await against(() => page(item), ...args, "--json");
    assert.deepEqual(JSON.parse(json.stdout), [JSON.parse(JSON.stringify(item))]);
  }
  const empty = await against(() => page(), "session", "list");
  assert.match(empty.stdout, /no session yet/);
  assert.equal((await against(() => page(), "session", "list", "--json")).stdout, "[]\n");
});

test("a list is read page after page, as far as it is wanted", async () => {
  const pages = (call: Call): Answer => {
    const at = Number(new URL(call.path, "http://x").searchParams.get("cursor") ?? 0);
    const items = [{ ...model, id: `spring.${at}` }];
    return { json: { items, next: at === 4 ? null : String(at + 1) } };
  };
  const all = await against(pages, "model", "list", "--json", "--session", "spring");
  assert.equal(JSON.parse(all.stdout).length, 5);
  assert.equal(all.calls[1]?.path, "/models?session=spring&cursor=1");
  const some = await against(pages, "model", "list", "--json", "--limit", "2");
  assert.equal(JSON.parse(some.stdout).length, 2);
  assert.equal(some.calls.length, 2);
});

test("session start lays options over the file and sends the whole", async () => {
  const file = scratchFile(
    "session.yaml",
    "name: spring\ninitialModel: a.0\nrounds: 5\ntraining: { epochs: 1, momentum: 0.9 }\n",
  );
  const started = await against(
    () => ({ status: 201, json: session }),
    ..."session start --rounds 30 --epochs 3 --optimizer fedadam --set grid.range=2".split(" "),
    ...["--file", file, "--name", "7", "--set", "saturate=false"],
  );
  assert.equal(started.code, 0);
  assert.match(started.stdout, /session spring is running, from model spring\.11/);
  assert.equal(started.calls[0]?.method, "POST");
  assert.deepEqual(JSON.parse(String(started.calls[0]?.body)), {
    name: "7",
    initialModel: "a.0",
    rounds: 30,
    training: { epochs: 3, momentum: 0.9 },
    optimizer: { kind: "fedadam" },
    grid: { range: 2 },
    saturate: false,
  });
});

test("a session file or option that cannot be used ends with 64 and sends nothing", async () => {
  const broken = scratchFile("broken.yaml", "name: [");
  const list = scratchFile("list.yaml", "- name");
  const good = ["--name", "a", "--initial-model", "a.0"];
  const wrong = [
    ["--file", broken],
    ["--file", list],
    ["--file", join(scratch, "absent.yaml")],
    ["--name", "a"],
    [...good, "--set", "rounds"],
    [...good, "--set", "a..b=1"],
  ];
  for (const args of wrong) {
    const ended = await against(() => ({ json: session }), "session", "start", ...args);
    assert.equal(ended.code, 64, args.join(" "));
    assert.equal(ended.calls.length, 0);
  }
});

test("session show, stop and resume say where the session stands", async () => {
  const answer = ({ path }: Call): Answer =>
    path.includes("/rounds")
      ? page(round(12, "open"), round(11), round(10, "failed"))
      : { json: session };
  const shown = await against(answer, "session", "show", "spring");
  assert.match(shown.stdout, /open round +12 \(train\): 1 of 3 sites/);
  assert.match(shown.stdout, /last round +accuracy 0\.9313, loss 0\.2201/);
  assert.match(shown.stdout, /10 +train +failed \(sites-quorum\)/);
  for (const line of shown.stdout.split("\n")) assert.ok(line.length <= 80, line);
  const json = JSON.parse((await against(answer, "session", "show", "spring", "--json")).stdout);
  assert.deepEqual(
    json.rounds.map((each: { number: number }) => each.number),
    [10, 11, 12],
  );
  const stopped = await against(answer, "session", "stop", "spring");
  assert.equal(stopped.calls[0]?.path, "/sessions/spring/stop");
  assert.equal((await against(answer, "session", "resume", "spring")).code, 0);
});

test("what a round kept, and what its model took from earlier ones, is counted by name", async () => {
  const counted = { ...round(11), merged: 20, kept: 4, fromEarlier: 7 };
  const answer = ({ path }: Call): Answer =>
    path.includes("/rounds")
      ? page(counted, round(10, "failed"))
      : path.includes("/models/")
        ? { json: model }
        : { json: { ...session, state: "finished", reason: null, round: null } };
  const shown = await against(answer, "session", "show", "spring");
  assert.match(shown.stdout, /contributions +240 in a model, 3 expired/);
  assert.match(shown.stdout, /MERGED +KEPT +EXPIRED +EARLIER/);
  assert.match(shown.stdout, / 20 +4 +0 +7 +spr/);
  const followed = await against(answer, "session", "show", "spring", "--follow");
  assert.match(followed.stdout, /20 merged, 4 kept, 0 expired, 7 from earlier rounds/);
});

test("following shows each round once, rides out an outage, and ends with the session", async () => {
  let looks = 0;
  const answer =
    (state: "finished" | "failed") =>
    (call: Call): Answer => {
      if (call.path.startsWith("/models/")) return { json: model };
      if (call.path === "/sessions") return { status: 201, json: session };
      if (call.path.endsWith("/rounds")) {
        return looks < 3 ? page(round(2, "open"), round(1)) : page(round(2), round(1));
      }
      looks += 1;
      if (looks === 2) return problem(503, "unavailable", "starting");
      return { json: looks < 4 ? session : { ...session, state, reason: null, round: null } };
    };
  const start = "session start --name spring --initial-model a.0 --follow".split(" ");
  const finished = await against(answer("finished"), ...start);
  assert.equal(finished.code, 0);
  const lines = finished.stdout.trimEnd().split("\n");
  assert.match(lines[0] ?? "", /^round 1 .*24 merged, 0 expired {2}1\.2 s {2}accuracy 0\.9313$/);
  assert.match(lines[1] ?? "", /^round 2 /);
  assert.match(lines[2] ?? "", /^session spring finished; 11 models, newest spring\.11$/);
  assert.equal(lines.length, 3);
  looks = 0;
  const failed = await against(answer("failed"), ...start, "--json");
  assert.equal(failed.code, 1);
  const values = failed.stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    values.map((value) => Object.keys(value)[0]),
    ["round", "round", "session"],
  );
});

test("a model is downloaded whole, verified, and into a new file only", async () => {
  const answer = ({ path }: Call): Answer =>
    path.endsWith("/file") ? { bytes: modelFile } : { json: model };
  const out = join(scratch, "model.safetensors");
  const command = ["model", "download", "spring.11", "--out", out];
  assert.equal((await against(answer, ...command)).code, 0);
  assert.deepEqual(readFileSync(out), modelFile);
  const again = await against(answer, ...command);
  assert.equal(again.code, 73);
  assert.match(again.stderr, /exists.*--force/);
  assert.equal(again.calls.length, 0, "it asks the cloud for nothing");
  writeFileSync(out, "older");
  assert.equal((await against(answer, ...command, "--force")).code, 0);
  assert.deepEqual(readFileSync(out), modelFile);
  const cloud = await fakeCloud(answer);
  const env = { TRIBUTARY_URL: cloud.url };
  const unnamed = await tributary(["model", "download", "spring.11"], { env, cwd: scratch });
  await cloud.close();
  assert.equal(unnamed.code, 0);
  assert.deepEqual(readFileSync(join(scratch, "spring.11.safetensors")), modelFile);
});

test("a download with another digest, or cut short, leaves the file as it was", async () => {
  const out = join(scratch, "kept.safetensors");
  writeFileSync(out, "older");
  const command = ["model", "download", "spring.11", "--out", out, "--force"];
  const damaged = Buffer.from(modelFile);
  damaged[3] = 0;
  const wrong = await against(
    ({ path }) => (path.endsWith("/file") ? { bytes: damaged } : { json: model }),
    ...command,
  );
  assert.equal(wrong.code, 69);
  assert.match(wrong.stderr, /have the digest/);
  const cloud = await fakeCloud(({ path }) => {
    if (!path.endsWith("/file")) return { json: model };
    setTimeout(() => void cloud.close(), 20);
    return { bytes: modelFile, stall: true };
  });
  const cut = await runHere(command, { env: { TRIBUTARY_URL: cloud.url } });
  assert.equal(cut.code, 69);
  assert.equal(readFileSync(out, "utf8"), "older");
  assert.deepEqual(
    readdirSync(scratch).filter((name) => name.includes("partial")),
    [],
  );
});

test("a model is imported, shown and activated", async () => {
  const file = scratchFile("first.safetensors", "bytes");
  const imported = await against(
    () => ({ status: 201, json: { ...model, id: "first.0" } }),
    ...["model", "import", file, "--name", "first"],
  );
  assert.match(imported.stdout, /^model first\.0: /);
  assert.equal(imported.calls[0]?.path, "/models?name=first");
  assert.equal(String(imported.calls[0]?.body), "bytes");
  const shown = await against(() => ({ json: model }), "model", "show", "spring.11");
  assert.match(shown.stdout, /^training +accuracy 0\.9313\nevaluation +accuracy 0\.9402$/m);
  assert.match(shown.stdout, /sum sha256 +(ab){32}/);
  const activated = await against(() => ({ json: session }), "model", "activate", "spring.11");
  assert.equal(activated.calls[0]?.path, "/models/spring.11/activate");
  assert.match(activated.stdout, /session spring goes on from spring\.11/);
  assert.equal((await runHere(["model", "import", "absent", "--name", "x"])).code, 64);
});

test("--print-config shows the checked config without secrets; a wrong one ends with 78", async () => {
  const config = scratchFile("cloud.yaml", `dataDir: ${join(scratch, "data")}\n`);
  const env = { TRIBUTARY_CLOUD_STORE__URL: "postgres://user:hunter2@127.0.0.1/db" };
  const command = ["cloud", "start", "--config", config, "--print-config"];
  const printed = await tributary(command, { env });
  assert.equal(printed.code, 0);
  assert.match(printed.stdout, /url: \(hidden\)/);
  assert.doesNotMatch(printed.stdout, /hunter2/);
  const json = JSON.parse((await runHere([...command, "--json"], { env })).stdout);
  assert.equal(json.log, "json");
  const typo = scratchFile("typo.yaml", "dataDirr: x\n");
  for (const tier of ["cloud", "gateway", "device"]) {
    const { code, stdout, stderr } = await tributary([tier, "start", "--config", typo]);
    assert.equal(code, 78, tier);
    assert.equal(stdout, "");
    assert.match(stderr, /dataDirr.*did you mean "dataDir"/);
  }
});
