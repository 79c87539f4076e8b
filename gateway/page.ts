import { framePage } from "./page-frame.js";
import type { StatusView } from "./status-view.js";
import { bytesOf, idleWords, plural, roundStateOf, spanOf } from "./status-words.js";

const HOUR_MS = 3_600_000;
/** The share of the budget from which it is shown as a warning, and as trouble. */
const FULL_WARN = 0.7;
const FULL_BAD = 0.9;

/** The status as a page that loads nothing else. All text that others chose is escaped. */
export function renderPage(view: StatusView): string {
  const { gateway, site, link } = view;
  const up = link.brokenAbove === null ? "link up" : "cut off further up";
  const state = link.attached ? up : "no link";
  const main = [
    `<header><h1>${escapeHtml(gateway)}</h1><span class="quiet">site ${escapeHtml(site)}</span></header>`,
    linkLine(view),
    idleLine(view),
    `<div class="cards">${[waitingCard, budgetCard, drainCard, devicesCard, diskCard, clockCard]
      .map((card) => card(view))
      .join("")}</div>`,
    classesTable(view),
    roundsTable(view),
    endsTable(view),
    refusalsTable(view),
    footer(view),
  ];
  return framePage(escapeHtml(`${gateway}: ${state}`), main.join("\n"));
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** The state by colour, by shape and in words. */
function linkLine({ link }: StatusView): string {
  const { attached, sinceMs, upstream, address, reason, roundTripMs, nextWindowMs, brokenAbove } =
    link;
  const name = escapeHtml(upstream ?? address);
  const whole = attached && brokenAbove === null;
  const mark = whole
    ? '<svg class="mark good" viewBox="0 0 24 24" aria-hidden="true"><path d="M4 13l5 5L20 6" fill="none" stroke="currentColor" stroke-width="4"/></svg>'
    : '<svg class="mark warn" viewBox="0 0 24 24" aria-hidden="true"><path d="M5 5l14 14M19 5L5 19" fill="none" stroke="currentColor" stroke-width="4"/></svg>';
  const said = attached
    ? `Link to ${name} up for ${spanOf(sinceMs)}`
    : `No link to ${name} for ${spanOf(sinceMs)}`;
  const cut = attached && !whole ? `Link to ${name} up, but no way on to the cloud` : said;
  const words = `<span class="${whole ? "good" : "warn"}">${cut}</span>`;
  const details = [
    attached && roundTripMs !== null ? `round trip ${Math.round(roundTripMs)} ms` : "",
    brokenAbove === null ? "" : brokenLine(brokenAbove),
    !attached && reason !== null ? `last reason: ${escapeHtml(reason)}` : "",
    nextWindowMs !== null && nextWindowMs > 0 ? `next window in ${spanOf(nextWindowMs)}` : "",
  ].filter((detail) => detail !== "");
  return `<div class="link">${mark}${words}<span class="quiet">${details.join("; ")}</span></div>`;
}

function brokenLine({ gateway, sinceMs }: NonNullable<StatusView["link"]["brokenAbove"]>): string {
  return `${escapeHtml(gateway)} has had no link to the cloud for ${spanOf(sinceMs)}`;
}

/** A site that trains is seen by its rounds. */
function idleLine({ idle }: StatusView): string {
  return idle === null ? "" : `<p class="quiet">Idle: ${escapeHtml(idleWords(idle))}</p>`;
}

function card(title: string, big: string, lines: readonly string[], tone = ""): string {
  const shown = lines.map((line) =>
    line.startsWith("<div") ? line : `<p class="quiet">${line}</p>`,
  );
  return `<div class="card"><h2>${title}</h2><p class="big ${tone}">${big}</p>${shown.join("")}</div>`;
}

function waitingCard({ waiting }: StatusView): string {
  const { partials, bytes, oldestAgeMs } = waiting;
  if (partials === 0) return card("Waiting to go up", "nothing", ["all receipted upstream"]);
  return card("Waiting to go up", bytesOf(bytes), [
    `${plural(partials, "result")}, the oldest ${spanOf(oldestAgeMs)} old`,
  ]);
}

function budgetCard({ budget, rate }: StatusView): string {
  const used = budget.usedBytes + budget.promisedBytes;
  const share = budget.bytes === 0 ? 1 : Math.min(1, used / budget.bytes);
  const tone = share >= FULL_BAD ? "bad" : share >= FULL_WARN ? "warn" : "";
  const width = `<div class="track"><svg width="100%" height="100%" preserveAspectRatio="none" viewBox="0 0 1000 1" role="img" aria-label="${Math.round(100 * share)} percent used"><rect width="${Math.round(1000 * share)}" height="1" fill="currentColor"/></svg></div>`;
  return card(
    "Buffer used",
    `${Math.round(100 * share)} %`,
    [width, `${bytesOf(used)} of ${bytesOf(budget.bytes)}`, fullLine(rate)],
    tone,
  );
}

function fullLine({ hoursUntilFull, bytesPerHour }: StatusView["rate"]): string {
  if (bytesPerHour === null) return "full in: not known before an hour of measuring";
  if (hoursUntilFull === null) return "nothing fills it at today’s rate";
  return `full in ${spanOf(hoursUntilFull * HOUR_MS)} without a link, at ${bytesOf(bytesPerHour)}/h`;
}

function drainCard({ drain, waiting }: StatusView): string {
  const { ms, basis, bytesPerSecond } = drain;
  if (waiting.bytes === 0) return card("Time to send it", "none", ["nothing waits"]);
  if (ms === null || bytesPerSecond === null) {
    return card("Time to send it", "not known", ["nothing was sent since the start"]);
  }
  return card("Time to send it", ms < 1_000 ? "under 1 s" : spanOf(ms), [
    `at ${bytesOf(bytesPerSecond)}/s, ${basis === "configured" ? "as configured" : "as measured"}`,
  ]);
}

function devicesCard({ devices, gatewaysBelow }: StatusView): string {
  const below = gatewaysBelow.length;
  return card(
    "Devices connected",
    String(devices),
    [below === 0 ? "" : `${plural(below, "gateway")} below`].filter((line) => line !== ""),
  );
}

function diskCard({ disk }: StatusView): string {
  const tight = disk.freeBytes <= disk.reserveBytes;
  const line = `${bytesOf(disk.reserveBytes)} of it are left to others`;
  return card("Free disk", bytesOf(disk.freeBytes), [line], tight ? "bad" : "");
}

function clockCard({ clock }: StatusView): string {
  const { trusted, now, offsetMs } = clock;
  const shown = escapeHtml(`${now.slice(0, 10)} ${now.slice(11, 16)} UTC`);
  if (trusted) return card("Clock", "right", [`${shown}; ${Math.round(offsetMs)} ms off upstream`]);
  const how = offsetMs === 0 ? "not confirmed by the upstream yet" : wrongBy(offsetMs);
  return card(
    "Clock",
    offsetMs === 0 ? "unconfirmed" : "wrong",
    [how, shown],
    offsetMs === 0 ? "" : "warn",
  );
}

/** Before the upstream's time was heard, the floor says only how far behind it is at least. */
function wrongBy(offsetMs: number): string {
  return offsetMs < 0
    ? `at least ${spanOf(-offsetMs)} behind`
    : `${spanOf(offsetMs)} ahead of the upstream`;
}

type Column<Row> = {
  readonly title: string;
  readonly cell: (row: Row) => string;
  readonly number?: true;
};

/** Cells are escaped here. */
function table<Row>(title: string, columns: readonly Column<Row>[], rows: readonly Row[]): string {
  if (rows.length === 0) return "";
  const of = (tag: string, text: string, column: Column<Row>) =>
    `<${tag}${column.number ? ' class="number"' : ""}>${escapeHtml(text)}</${tag}>`;
  const head = columns.map((column) => of("th", column.title, column)).join("");
  const body = rows
    .map(
      (row) => `<tr>${columns.map((column) => of("td", column.cell(row), column)).join("")}</tr>`,
    )
    .join("");
  return `<section><h2>${title}</h2><table><thead><tr>${head}</tr></thead><tbody>${body}</tbody></table></section>`;
}

function classesTable({ waiting }: StatusView): string {
  type Row = StatusView["waiting"]["classes"][number];
  const columns: Column<Row>[] = [
    { title: "class", cell: ({ name }) => name },
    { title: "kept", cell: ({ bytes }) => bytesOf(bytes), number: true },
    { title: "budget", cell: ({ budgetBytes }) => bytesOf(budgetBytes), number: true },
    { title: "given up", cell: ({ evicted }) => String(evicted), number: true },
  ];
  return table("Kept here, by class", columns, waiting.classes);
}

function roundsTable({ rounds }: StatusView): string {
  type Row = StatusView["rounds"][number];
  const columns: Column<Row>[] = [
    { title: "round", cell: ({ round }) => round },
    { title: "state", cell: roundStateOf },
    { title: "asked", cell: ({ offered }) => String(offered), number: true },
    { title: "in", cell: ({ folded }) => String(folded), number: true },
    { title: "declined", cell: ({ declined }) => String(declined), number: true },
  ];
  return table("Rounds", columns, rounds);
}

function endsTable({ ends }: StatusView): string {
  type Row = StatusView["ends"][number];
  const columns: Column<Row>[] = [
    { title: "when", cell: ({ agoMs }) => `${spanOf(agoMs)} ago` },
    { title: "round", cell: ({ round }) => round },
    {
      title: "upstream’s answer",
      cell: ({ outcome, rule }) => (rule === "" ? outcome : `${outcome} (${rule})`),
    },
    { title: "size", cell: ({ bytes }) => (bytes === null ? "" : bytesOf(bytes)), number: true },
  ];
  return table("Last results sent", columns, ends);
}

function refusalsTable({ refusals }: StatusView): string {
  const columns: Column<readonly [string, number]>[] = [
    { title: "code", cell: ([code]) => code },
    { title: "times", cell: ([, count]) => String(count), number: true },
  ];
  return table("Refused to devices since the start", columns, Object.entries(refusals));
}

const modes = {
  tls: "over TLS",
  plain: "in the clear, on this machine alone",
  insecure: "IN THE CLEAR OVER A NETWORK: anybody there can read and change all of it",
} as const;

function footer(view: StatusView): string {
  const { softwareVersion, upMs, incarnation, denylist, security } = view;
  const list =
    denylist === null
      ? ""
      : `, denylist ${denylist.sequence} with ${denylist.entries} shut out, in effect for ${spanOf(denylist.ageMs)}`;
  return `<footer>Tributary ${escapeHtml(softwareVersion)}, up for ${spanOf(upMs)}, data directory ${escapeHtml(incarnation)}${list}, ${modes[security.mode]}</footer>`;
}
