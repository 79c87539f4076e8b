import type { StatusView } from "@tributary/gateway/status-view.js";
import { idleWords, plural, roundStateOf } from "@tributary/gateway/status-words.js";
import { type Column, fields, shorten, table } from "./table.js";
import { bytes, duration, time } from "./words.js";

const HOUR_MS = 3_600_000;

/** A gateway's status for a person, in lines of at most `width` characters. */
export function describeStatus(view: StatusView, width: number): string {
  const { gateway, site, softwareVersion, upMs, devices, gatewaysBelow, disk } = view;
  const below =
    gatewaysBelow.length === 0 ? "" : `, ${plural(gatewaysBelow.length, "gateway")} below`;
  const lines = fields([
    ["gateway", `${gateway} at ${site}, version ${softwareVersion}, up for ${duration(upMs)}`],
    ...linkLines(view),
    ["idle", view.idle === null ? undefined : idleWords(view.idle)],
    ["waiting", waitingLine(view)],
    ["buffer", bufferLine(view)],
    ["full in", fullLine(view)],
    ["to send", drainLine(view)],
    ["devices", `${devices} connected${below}`],
    ["disk", `${bytes(disk.freeBytes)} free, ${bytes(disk.reserveBytes)} of it left to others`],
    ["clock", clockLine(view)],
    ["security", securityLine(view)],
    ["denylist", denylistLine(view)],
    ["refused", refusedLine(view)],
  ]);
  const cut = lines
    .split("\n")
    .map((line) => shorten(line, width))
    .join("\n");
  const tables = [classes(view, width), rounds(view, width), ends(view, width)];
  return [cut, ...tables].filter((text) => text !== "").join("\n");
}

type Line = readonly [string, string | undefined];

function linkLines({ link }: StatusView): readonly Line[] {
  const { attached, sinceMs, address, upstream, reason, roundTripMs, nextWindowMs, brokenAbove } =
    link;
  const trip = roundTripMs === null ? "" : `, round trip ${Math.round(roundTripMs)} ms`;
  const window =
    nextWindowMs === null || nextWindowMs === 0 ? "" : `, next window in ${duration(nextWindowMs)}`;
  return [
    [
      "link",
      `${attached ? "up" : "down"} for ${duration(sinceMs)}${attached ? trip : ""}${window}`,
    ],
    ["upstream", upstream === null ? address : `${upstream} at ${address}`],
    ["above", brokenAbove === null ? undefined : brokenLine(brokenAbove)],
    ["lost last", reason ?? undefined],
  ];
}

function brokenLine({ gateway, sinceMs }: NonNullable<StatusView["link"]["brokenAbove"]>): string {
  return `${gateway} has had no link to the cloud for ${duration(sinceMs)}`;
}

function waitingLine({ waiting }: StatusView): string {
  const { partials, bytes: size, oldestAgeMs } = waiting;
  if (partials === 0) return "nothing";
  return `${plural(partials, "result")}, ${bytes(size)}, the oldest ${duration(oldestAgeMs)} old`;
}

function bufferLine({ budget }: StatusView): string {
  const used = budget.usedBytes + budget.promisedBytes;
  const share = Math.round((100 * used) / budget.bytes);
  return `${bytes(used)} of ${bytes(budget.bytes)} (${share} %)`;
}

function fullLine({ rate }: StatusView): string {
  const { bytesPerHour, hoursUntilFull } = rate;
  if (bytesPerHour === null) return "not known before an hour of measuring";
  if (hoursUntilFull === null) return "never at today's rate: nothing fills it";
  const span = duration(hoursUntilFull * HOUR_MS);
  return `${span} without a link, at today's ${bytes(bytesPerHour)} an hour`;
}

function drainLine({ drain, waiting }: StatusView): string {
  const { bytesPerSecond, basis, ms } = drain;
  if (waiting.partials === 0) return "nothing";
  if (ms === null || bytesPerSecond === null) return "not known: nothing was sent since the start";
  return `${duration(ms)} at ${bytes(bytesPerSecond)}/s, as ${basis}`;
}

function clockLine({ clock }: StatusView): string {
  const { trusted, now, offsetMs } = clock;
  const shown = now.replace(/\.\d+Z$/, "Z");
  if (trusted) return `right within ${Math.abs(Math.round(offsetMs))} ms, ${shown}`;
  if (offsetMs === 0) return `not confirmed by the upstream since the start, ${shown}`;
  const how = `${duration(Math.abs(offsetMs))} ${offsetMs < 0 ? "behind" : "ahead"}`;
  return `wrong, ${offsetMs < 0 ? "at least " : ""}${how}; events are stamped ${shown}`;
}

function securityLine({ security: { mode, certificateEnds } }: StatusView): string {
  switch (mode) {
    case "tls":
      return `TLS; the certificate ends ${time(Date.parse(certificateEnds ?? ""))}`;
    case "plain":
      return "in the clear, on this machine alone";
    case "insecure":
      return "INSECURE: in the clear over a network, for anybody there to read and change";
  }
}

function denylistLine({ denylist }: StatusView): string | undefined {
  if (denylist === null) return undefined;
  const { sequence, entries, ageMs } = denylist;
  if (sequence === 0) return "none yet";
  return `${sequence}, ${entries} shut out, in effect for ${duration(ageMs)}`;
}

function refusedLine({ refusals, duplicates }: StatusView): string | undefined {
  const parts = Object.entries(refusals).map(([code, count]) => `${code} ${count}`);
  if (duplicates > 0) parts.push(`received twice ${duplicates}`);
  return parts.length === 0 ? undefined : parts.join(", ");
}

function classes({ waiting }: StatusView, width: number): string {
  type Row = StatusView["waiting"]["classes"][number];
  const columns: readonly Column<Row>[] = [
    { title: "CLASS", cell: ({ name }) => name },
    { title: "KEPT", cell: (row) => bytes(row.bytes), align: "right" },
    { title: "BUDGET", cell: ({ budgetBytes }) => bytes(budgetBytes), align: "right" },
    { title: "GIVEN UP", cell: ({ evicted }) => String(evicted), align: "right" },
  ];
  return waiting.classes.length === 0 ? "" : table(columns, waiting.classes, width);
}

function rounds({ rounds: rows }: StatusView, width: number): string {
  type Row = StatusView["rounds"][number];
  const columns: readonly Column<Row>[] = [
    { title: "ROUND", cell: ({ round }) => round },
    { title: "STATE", cell: roundStateOf },
    { title: "ASKED", cell: ({ offered }) => String(offered), align: "right" },
    { title: "IN", cell: ({ folded }) => String(folded), align: "right" },
    { title: "DECLINED", cell: ({ declined }) => String(declined), align: "right" },
  ];
  return rows.length === 0 ? "" : table(columns, rows, width);
}

function ends({ ends: rows }: StatusView, width: number): string {
  type Row = StatusView["ends"][number];
  const columns: readonly Column<Row>[] = [
    { title: "SENT", cell: ({ agoMs }) => `${duration(agoMs)} ago` },
    { title: "ROUND", cell: ({ round }) => round },
    {
      title: "ANSWER",
      cell: ({ outcome, rule }) => (rule === "" ? outcome : `${outcome} (${rule})`),
    },
    { title: "SIZE", cell: (row) => bytes(row.bytes ?? undefined), align: "right" },
  ];
  return rows.length === 0 ? "" : table(columns, rows, width);
}
