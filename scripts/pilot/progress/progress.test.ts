import assert from "node:assert/strict";
import { test } from "node:test";
import { stripVTControlCharacters } from "node:util";
import { byteText, createProgressView, type Progress, sparkline } from "./progress.js";

const progress = (round: number, link: "up" | "cut" = "up"): Progress => ({
  round,
  rounds: 30,
  done: round - 1,
  phase: "training",
  curve: { name: "accuracy", values: [0.1, 0.5, 0.9] },
  contributions: 48,
  elapsedMs: 10_000,
  sites: [{ site: "hall-a", link, process: "up", devices: 8, folded: 3, asked: 8 }],
});

function capture(isTTY: boolean) {
  let text = "";
  return {
    isTTY,
    columns: 80,
    write(more: string) {
      text += more;
    },
    text: () => text,
  };
}

test("without a terminal there is one line a change and no control character", () => {
  const out = capture(false);
  const view = createProgressView(out);
  view.update(progress(3));
  view.update(progress(3));
  view.update(progress(3, "cut"));
  view.note("hall-a: uplink cut");
  const lines = out.text().trimEnd().split("\n");
  assert.equal(lines.length, 3);
  assert.match(
    lines[0] ?? "",
    /round {2}3\/30 {2}accuracy 90.00 % {2}contributions 48 {2}time left 2:20/,
  );
  assert.match(lines[1] ?? "", /hall-a cut$/);
  assert.ok(!out.text().includes("\u001b"));
});

test("without a terminal a cut site says what waits there, and a new figure alone is no line", () => {
  const out = capture(false);
  const view = createProgressView(out);
  for (const bytes of [407_000, 408_000]) {
    const [site] = progress(3, "cut").sites;
    assert.ok(site !== undefined);
    view.update({
      ...progress(3),
      sites: [{ ...site, waiting: { bytes, oldestMs: 4_200, usedBytes: 0 } }],
    });
  }
  assert.match(out.text(), /hall-a cut 407 kB wait 4 s\n$/);
  const [site] = progress(4, "cut").sites;
  assert.ok(site !== undefined);
  const waiting = { bytes: 0, oldestMs: 0, usedBytes: 816_000 };
  view.update({ ...progress(4), sites: [{ ...site, waiting }] });
  assert.match(out.text(), /hall-a cut 816 kB held\n$/);
});

test("on a terminal the view erases exactly what it drew", () => {
  const out = capture(true);
  const view = createProgressView(out);
  view.update(progress(3));
  const drawn = out.text().split("\n").length - 1;
  view.update(progress(4));
  assert.ok(out.text().includes(`\r\u001b[${drawn}A\u001b[J`));
});

test("a terminal line fits its columns", () => {
  const out = capture(true);
  const [site] = progress(30).sites;
  assert.ok(site !== undefined);
  createProgressView(out).update({
    ...progress(30),
    sites: [
      site,
      {
        site: "a-site-with-name",
        link: "cut",
        process: "up",
        devices: 240,
        folded: 240,
        asked: 240,
        waiting: { bytes: 999_400_000, oldestMs: 99_000, usedBytes: 0 },
      },
    ],
  });
  assert.match(out.text(), /999 MB wait 99 s/);
  const lines = stripVTControlCharacters(out.text()).split("\n");
  for (const line of lines) assert.ok(line.length < 80, line);
});

test("a sparkline spans its range and keeps the newest", () => {
  assert.equal(sparkline([0, 0.5, 1], 2), "▅█");
  assert.equal(sparkline([-1, 2], 5), "▁█");
});

test("a session without accuracies shows the loss, and nothing before there is one", () => {
  const out = capture(false);
  const view = createProgressView(out);
  view.update({ ...progress(3), curve: { name: "loss", values: [0.2, 0.01234] } });
  view.update({ ...progress(4), curve: { name: "loss", values: [] } });
  const [with_, without] = out.text().split("\n");
  assert.match(with_ ?? "", /round {2}3\/30 {2}loss 0\.0123 {2}contributions/);
  assert.match(without ?? "", /round {2}4\/30 {2}contributions/);
});

test("bytes stand in decimal units", () => {
  assert.deepEqual([0, 999, 1_000, 9_949, 9_951, 999_499, 999_500, 1.2e9].map(byteText), [
    "0 B",
    "999 B",
    "1.0 kB",
    "9.9 kB",
    "10 kB",
    "999 kB",
    "1.0 MB",
    "1.2 GB",
  ]);
});
