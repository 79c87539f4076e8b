import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Column, fields, table } from "./table.js";
import { ago, bytes, duration, metrics } from "./words.js";

type Row = { readonly name: string; readonly size: number };

const columns: readonly Column<Row>[] = [
  { title: "NAME", cell: ({ name }) => name },
  { title: "SIZE", cell: ({ size }) => String(size), align: "right" },
];

test("columns align, numbers at the right", () => {
  const rows = [
    { name: "a", size: 5 },
    { name: "longer", size: 12345 },
  ];
  assert.equal(
    table(columns, rows, 80),
    ["NAME     SIZE", "a           5", "longer  12345", ""].join("\n"),
  );
});

test("no line is wider than asked, and what is cut ends with an ellipsis", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ name: fc.string({ maxLength: 200 }), size: fc.nat() }), {
        maxLength: 5,
      }),
      fc.integer({ min: 20, max: 120 }),
      (rows, width) => {
        for (const line of table(columns, rows, width).split("\n")) assert.ok(line.length <= width);
      },
    ),
  );
  assert.match(table(columns, [{ name: "x".repeat(100), size: 1 }], 40), /x…/);
});

test("a control character of a name does not reach the terminal", () => {
  const rows = [{ name: "a\u001b[2Jb\nc", size: 1 }];
  assert.match(table(columns, rows, 80), /^a\?\[2Jb\?c/m);
  assert.equal(fields([["name", "a\u009bb"]]), "name  a?b\n");
});

test("fields without a value are left out", () => {
  assert.equal(
    fields([
      ["state", "running"],
      ["reason", undefined],
      ["id", "7"],
    ]),
    "state  running\nid     7\n",
  );
});

test("figures read well", () => {
  assert.equal(bytes(512), "512 B");
  assert.equal(bytes(1_500_000), "1.5 MB");
  assert.equal(duration(4_400), "4 s");
  assert.equal(duration(3 * 3_600_000), "3 h");
  assert.equal(ago(null, 5), "-");
  assert.equal(metrics({ accuracy: 0.931256, samples: 60000 }), "accuracy 0.9313, samples 60000");
});
