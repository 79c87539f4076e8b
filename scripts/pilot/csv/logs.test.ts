import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { findLogs, uniqueIds } from "./logs.js";
import { readRows, surveyLog } from "./table.js";

let dir = "";
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "tributary-logs-"));
});
afterEach(() => rm(dir, { recursive: true }));

async function file(name: string, text: string): Promise<string> {
  const path = join(dir, name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
  return path;
}

/** `rows` lines of a time column and what `cells` gives. */
function log(header: string, rows: number, cells: (row: number) => string): string {
  return `${header}\n${Array.from({ length: rows }, (_, i) => cells(i)).join("\n")}\n`;
}

test("either separator, a byte order mark and CRLF are read", async () => {
  const semicolons = await file(
    "s.csv",
    log("\uFEFFtime;flow;temp", 60, (i) => `2020-01-01 00:00:${i};${i};${i * 2}`).replaceAll(
      "\n",
      "\r\n",
    ),
  );
  const commas = await file(
    "c.csv",
    log('"time","flow, raw",temp', 60, (i) => `x${i},${i},${i * 2}`),
  );
  assert.deepEqual((await surveyLog(semicolons, [])).sensors, ["flow", "temp"]);
  assert.deepEqual((await surveyLog(commas, [])).sensors, ["flow, raw", "temp"]);
  const rows = await readRows(semicolons, ["temp", "flow"]);
  assert.equal((await surveyLog(semicolons, [])).rows, 60);
  assert.equal(rows.rows, 60);
  assert.deepEqual([...rows.values.subarray(0, 6)], [0, 0, 2, 1, 4, 2]);
  assert.equal(rows.labels, undefined);
});

test("labels, change points, ignored and time columns are never inputs", async () => {
  const path = await file(
    "a.csv",
    log(
      "timestamp;flow;id;Anomaly;ChangePoint",
      60,
      (i) => `${i};${i};7;${i > 50 ? "1.0" : "0.0"};0.0`,
    ),
  );
  const header = await surveyLog(path, ["id"]);
  assert.deepEqual(header.sensors, ["flow"]);
  assert.deepEqual(header.unused, ["timestamp", "id", "ChangePoint"]);
  const { labels } = await readRows(path, ["flow"]);
  assert.equal(
    labels?.reduce((sum, label) => sum + label, 0),
    9,
  );
});

test("files with other columns share what they have in common", async () => {
  await file(
    "hall-a/1.csv",
    log("time,flow,temp,extra", 60, (i) => `t,${i},${i},${i}`),
  );
  await file(
    "hall b/2.csv",
    log("time;temp;flow;state", 60, (i) => `t;${i};${i};on`),
  );
  await file("hall b/notes.txt", "no log");
  await mkdir(join(dir, "empty"));
  const logs = await findLogs(dir, []);
  assert.deepEqual(logs.sensors, ["temp", "flow"]);
  assert.deepEqual([...logs.unused].sort(), ["extra", "state", "time"]);
  assert.deepEqual(
    logs.sites.map(({ site, devices }) => [site, devices.map(({ device }) => device)]),
    [
      ["hall-b", ["hall-b-2"]],
      ["hall-a", ["hall-a-1"]],
    ],
  );
});

test("names become identifiers, equal ones are told apart", () => {
  assert.deepEqual(uniqueIds(["a b", "a/b", "__proto__", "..", "ü"], "x"), [
    "a-b",
    "a-b-2",
    "proto__",
    "x",
    "x-2",
  ]);
});

test("missing values take the sensor's last one and are counted", async () => {
  const path = await file(
    "a.csv",
    log("time,flow,temp", 60, (i) => `t,${i === 0 || i === 5 ? "" : i},${i === 6 ? "NaN" : 1}`),
  );
  const { values, filled } = await readRows(path, ["flow", "temp"]);
  assert.equal(filled, 3);
  assert.deepEqual([values[0], values[10], values[12], values[13]], [1, 4, 6, 1]);
});

for (const [what, text, message] of [
  ["an empty file", "", /the header has 0 columns/],
  ["one column", "flow\n1\n2\n", /header has 1 columns/],
  ["a header alone", "time,flow\n", /no row below the header/],
  ["numbers where the header should be", "1,2\n3,4\n", /first line holds numbers/],
  ["a column twice", "time,flow,flow\nt,1,2\n", /"flow" stands twice/],
  ["a program", "\u007fELF\u0000,\u0000\n", /not a text file/],
] as const) {
  test(`${what} is refused by name`, async () => {
    const path = await file("bad.csv", text);
    await assert.rejects(surveyLog(path, []), (error: Error) => {
      assert.match(error.message, message);
      assert.ok(error.message.startsWith(path));
      return true;
    });
  });
}

test("what is wrong below the header names its line and column", async () => {
  const text = await file(
    "a.csv",
    log("time,flow", 60, (i) => `t,${i === 40 ? "high" : i}`),
  );
  await assert.rejects(readRows(text, ["flow"]), /a\.csv, line 42: "high" in column "flow"/);
  const label = await file(
    "b.csv",
    log("time,flow,anomaly", 60, (i) => `t,${i},${i === 40 ? 2 : 0}`),
  );
  await assert.rejects(
    readRows(label, ["flow"]),
    /b\.csv, line 42: "2" in column "anomaly" is not 0 or 1/,
  );
  const short = await file(
    "c.csv",
    log("time,flow", 60, (i) => (i === 40 ? "t" : `t,${i}`)),
  );
  await assert.rejects(readRows(short, ["flow"]), /c\.csv/);
  const few = await file(
    "d.csv",
    log("time,flow", 10, (i) => `t,${i}`),
  );
  await assert.rejects(readRows(few, ["flow"]), /10 rows; at least 50/);
});

test("a line is counted as an editor counts it", async () => {
  const path = await file(
    "a.csv",
    `time,note,flow\n\n${Array.from({ length: 60 }, (_, i) => (i === 3 ? `t,"two\nlines",${i}` : `t,n,${i === 50 ? "high" : i}`)).join("\n")}\n`,
  );
  await assert.rejects(surveyLog(path, []), /a\.csv, line 54: "high" in column "flow"/);
});

test("every row decides what a column is", async () => {
  const path = await file(
    "a.csv",
    log("time,late,state,mixed", 200, (i) =>
      [`t${i}`, i < 150 ? "" : i, i < 100 ? i : "off", i % 2 === 0 ? 1 : "on"].join(","),
    ),
  );
  assert.deepEqual((await surveyLog(path, [])).sensors, ["late"]);
  const slip = await file(
    "b.csv",
    log("time,flow", 200, (i) => `t,${i === 150 ? "1.2.3" : i}`),
  );
  await assert.rejects(
    surveyLog(slip, []),
    /b\.csv, line 152: "1\.2\.3" in column "flow" is not a number; .*--ignore flow/,
  );
  assert.deepEqual((await surveyLog(slip, ["flow"])).unused, ["time", "flow"]);
});

test("decimal commas are read between semicolons", async () => {
  const cells = ["1,5", "-0,25", "2.5", ",5", "1,5e-1", "7"];
  const path = await file(
    "a.csv",
    log("time;flow;anomaly", 60, (i) => `t;${cells[i % 6]};${i % 2 === 0 ? "0,0" : "1,0"}`),
  );
  assert.deepEqual((await surveyLog(path, [])).sensors, ["flow"]);
  const { values, labels } = await readRows(path, ["flow"]);
  assert.deepEqual([...values.subarray(0, 6)], [1.5, -0.25, 2.5, 0.5, 0.15, 7]);
  assert.deepEqual([...(labels ?? [])].slice(0, 4), [0, 1, 0, 1]);
  const thousands = await file(
    "b.csv",
    log("time;flow", 60, (i) => `t;${i === 7 ? "1.234,5" : i}`),
  );
  await assert.rejects(surveyLog(thousands, []), /line 9: "1\.234,5" in column "flow"/);
});

test("folders without logs, without common sensors or not there are refused", async () => {
  await assert.rejects(findLogs(join(dir, "absent"), []), /cannot read .*absent/);
  await assert.rejects(findLogs(dir, []), /no folder with a \.csv file/);
  await file(
    "a/1.csv",
    log("time,flow", 60, (i) => `t,${i}`),
  );
  await file(
    "b/1.csv",
    log("time,temp", 60, (i) => `t,${i}`),
  );
  await assert.rejects(findLogs(dir, []), /no column of numbers is left that all files share/);
});

test("a column to ignore that no file has is a slip, and named", async () => {
  await file(
    "a/1.csv",
    log("time,flow,temp", 60, (i) => `t,${i},${i}`),
  );
  assert.deepEqual((await findLogs(dir, ["temp"])).sensors, ["flow"]);
  await assert.rejects(findLogs(dir, ["tmep"]), /no file has the column "tmep"/);
});
