import { byteText } from "../progress/progress.js";
import type { BufferEntry, BufferSample, FaultEntry, PilotReport } from "./report.js";
import { escaped, faultBlock, LEFT, RIGHT, timeAxis, timeScale, WIDTH } from "./svg.js";

const HEAD = 26;
const GAP = 10;
/** Below a panel. */
const MARGIN = 12;

type Reading = NonNullable<BufferSample["is"]>;

/** What a panel shows, one strip below the other. */
const strips = [
  {
    height: 64,
    colour: "var(--accent)",
    of: (is: Reading) => is.bytes,
    /** Drawn as a line above it. */
    within: (is: Reading) => is.usedBytes,
    text: byteText,
  },
  { height: 24, colour: "var(--accent)", of: (is: Reading) => is.partials, text: partialsText },
  { height: 34, colour: "var(--good)", of: (is: Reading) => is.oldestMs, text: secondsText },
] as const;

const STRIPS = strips.reduce((sum, { height }) => sum + height, GAP * (strips.length - 1));
const PANEL = HEAD + STRIPS + MARGIN;

/**
 * One panel a site: the bytes of sealed Partials that wait for the uplink, with all that the buffer
 * holds as a line, their number, and the age of the oldest. All panels have one scale. Outages are
 * shaded.
 */
export function bufferCharts(report: PilotReport): string {
  const { buffers, faults, outage } = report;
  const all = buffers.flatMap(readings);
  if (all.length === 0) return "<p>No gateway told its status.</p>";
  const endMs = Math.max(1, report.wallSeconds * 1000);
  const tops = strips.map((strip) =>
    Math.max(1, ...all.map(strip.of), ...("within" in strip ? all.map(strip.within) : [])),
  );
  const panels = buffers.map((buffer, i) =>
    panel(
      buffer,
      faults.filter((fault) => fault.site === buffer.site),
      { endMs, tops },
      i * PANEL,
    ),
  );
  const height = buffers.length * PANEL + 24;
  const explained = outage === undefined ? "" : ` ${escaped(outage.note)}`;
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="What waits at each site over time">${panels.join("")}${timeAxis(endMs, height - 8)}</svg><p class="note">From the top: bytes of sealed Partials that wait for the uplink, their number, the age of the oldest. The line: all that the buffer holds, with the journals and the site state of open rounds. Shaded: the uplink was cut, or the gateway was dead. As the gateways said themselves, four times a second.${explained}</p>`;
}

type Scale = { readonly endMs: number; readonly tops: readonly number[] };

function panel(
  buffer: BufferEntry,
  faults: readonly FaultEntry[],
  { endMs, tops }: Scale,
  top: number,
): string {
  let at = top + HEAD;
  const drawn = strips.map((strip, i) => {
    const y = at;
    at += strip.height + GAP;
    return stripOf(strip, buffer, endMs, tops[i] ?? 1, y);
  });
  return [
    ...faults.map((fault) => faultBlock(fault, endMs, top + HEAD, STRIPS)),
    `<text class="name" x="${LEFT}" y="${top + 18}">${escaped(buffer.site)}</text>`,
    `<text x="${WIDTH - RIGHT}" y="${top + 18}" text-anchor="end">${escaped(atMost(readings(buffer)).join("; "))}</text>`,
    ...drawn,
  ].join("");
}

function stripOf(
  strip: (typeof strips)[number],
  buffer: BufferEntry,
  endMs: number,
  most: number,
  top: number,
): string {
  const bottom = top + strip.height;
  const y = (value: number) => bottom - strip.height * (value / most);
  const label = (at: number, text: string) =>
    `<text x="${LEFT - 10}" y="${at}" text-anchor="end">${escaped(text)}</text>`;
  return [
    label(top + 9, strip.text(most)),
    label(bottom + 3, "0"),
    `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${bottom}" y2="${bottom}" stroke="var(--line)"/>`,
    ...runs(buffer).flatMap((run) => [
      area(run, endMs, (is) => y(strip.of(is)), bottom, strip.colour),
      ...("within" in strip ? [line(run, endMs, (is) => y(strip.within(is)))] : []),
    ]),
  ].join("");
}

function partialsText(count: number): string {
  return `${count} ${count === 1 ? "Partial" : "Partials"}`;
}

function secondsText(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** The most that waited at a site, and that its buffer held, in words. */
export function atMost(all: readonly Reading[]): string[] {
  if (all.length === 0) return ["no answer"];
  const most = (pick: (reading: Reading) => number) => Math.max(...all.map(pick));
  const partials = most((is) => is.partials);
  return [
    partials === 0
      ? "nothing seen waiting"
      : `at most ${byteText(most((is) => is.bytes))} in ${partialsText(partials)}, the oldest ${secondsText(most((is) => is.oldestMs))} old`,
    `at most ${byteText(most((is) => is.usedBytes))} with open rounds`,
  ];
}

export function readings({ samples }: BufferEntry): Reading[] {
  return samples.flatMap(({ is }) => (is === undefined ? [] : [is]));
}

type Point = { readonly atMs: number; readonly is: Reading };

/** The samples without those that had no answer, which part them. */
function runs({ samples }: BufferEntry): Point[][] {
  const found: Point[][] = [[]];
  for (const { atMs, is } of samples) {
    if (is === undefined) found.push([]);
    else found.at(-1)?.push({ atMs, is });
  }
  return found.filter((run) => run.length > 0);
}

function path(run: readonly Point[], endMs: number, y: (is: Reading) => number): string {
  const x = timeScale(endMs);
  return run.map(({ atMs, is }) => `${x(atMs).toFixed(1)},${y(is).toFixed(1)}`).join(" ");
}

function area(
  run: readonly Point[],
  endMs: number,
  y: (is: Reading) => number,
  bottom: number,
  colour: string,
): string {
  const x = timeScale(endMs);
  const from = x(run[0]?.atMs ?? 0).toFixed(1);
  const to = x(run.at(-1)?.atMs ?? 0).toFixed(1);
  return `<polygon points="${from},${bottom} ${path(run, endMs, y)} ${to},${bottom}" fill="${colour}" fill-opacity=".55" stroke="${colour}"/>`;
}

function line(run: readonly Point[], endMs: number, y: (is: Reading) => number): string {
  return `<polyline points="${path(run, endMs, y)}" fill="none" stroke="var(--soft)" stroke-width="1"/>`;
}
