import { byteText } from "../progress/progress.js";
import type { BufferEntry, BufferSample, FaultEntry, PilotReport } from "./report.js";
import { escaped, faultBlock, LEFT, RIGHT, timeAxis, timeScale, WIDTH } from "./svg.js";

const HEAD = 26;
const BYTES = 64;
const AGE = 34;
const GAP = 8;
const PANEL = HEAD + BYTES + GAP + AGE + 12;

type Reading = NonNullable<BufferSample["is"]>;

/**
 * One panel a site: above, the bytes of sealed Partials that wait for the uplink, and as a line all
 * that the buffer holds; below, the age of the oldest. All panels have one scale. Outages are shaded.
 */
export function bufferCharts(report: PilotReport): string {
  const { buffers, faults, outage } = report;
  if (buffers.every(({ samples }) => samples.every(({ is }) => is === undefined)))
    return "<p>No gateway told its status.</p>";
  const endMs = Math.max(1, report.wallSeconds * 1000);
  const most = (pick: (reading: Reading) => number) =>
    Math.max(1, ...buffers.flatMap(readings).map(pick));
  const scale = {
    endMs,
    bytes: most((is) => Math.max(is.usedBytes, is.bytes)),
    ageMs: most((is) => is.oldestMs),
  };
  const panels = buffers.map((buffer, i) =>
    panel(
      buffer,
      faults.filter((fault) => fault.site === buffer.site),
      scale,
      i * PANEL,
    ),
  );
  const height = buffers.length * PANEL + 24;
  const explained = outage === undefined ? "" : ` ${escaped(outage.note)}`;
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="What waits at each site over time">${panels.join("")}${timeAxis(endMs, height - 8)}</svg><p class="note">Filled: bytes of sealed Partials that wait for the uplink, and below it the age of the oldest. Line: all that the buffer holds, with the journals and the site state of open rounds. Shaded: the uplink was cut, or the gateway was dead. As the gateways said themselves, four times a second.${explained}</p>`;
}

type Scale = { readonly endMs: number; readonly bytes: number; readonly ageMs: number };

function panel(
  buffer: BufferEntry,
  faults: readonly FaultEntry[],
  scale: Scale,
  top: number,
): string {
  const bytesTop = top + HEAD;
  const ageTop = bytesTop + BYTES + GAP;
  const all = readings(buffer);
  const bytesY = (value: number) => bytesTop + BYTES * (1 - value / scale.bytes);
  const ageY = (value: number) => ageTop + AGE * (1 - value / scale.ageMs);
  const floor = (y: number) =>
    `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y}" y2="${y}" stroke="var(--line)"/>`;
  const label = (y: number, text: string) =>
    `<text x="${LEFT - 10}" y="${y}" text-anchor="end">${escaped(text)}</text>`;
  return [
    ...faults.map((fault) => faultBlock(fault, scale.endMs, bytesTop, BYTES + GAP + AGE)),
    `<text class="name" x="${LEFT}" y="${top + 18}">${escaped(buffer.site)}</text>`,
    `<text x="${WIDTH - RIGHT}" y="${top + 18}" text-anchor="end">${escaped(atMost(all))}</text>`,
    label(bytesTop + 10, byteText(scale.bytes)),
    label(bytesTop + BYTES, "0"),
    label(ageTop + 10, `${(scale.ageMs / 1000).toFixed(1)} s`),
    label(ageTop + AGE, "0"),
    floor(bytesTop + BYTES),
    floor(ageTop + AGE),
    ...runs(buffer).flatMap((run) => [
      area(run, scale.endMs, (is) => bytesY(is.bytes), bytesTop + BYTES, "var(--accent)"),
      line(run, scale.endMs, (is) => bytesY(is.usedBytes)),
      area(run, scale.endMs, (is) => ageY(is.oldestMs), ageTop + AGE, "var(--good)"),
    ]),
  ].join("");
}

/** The most that waited at a site, in words. */
export function atMost(all: readonly Reading[]): string {
  if (all.length === 0) return "no answer";
  const most = (pick: (reading: Reading) => number) => Math.max(...all.map(pick));
  const partials = most((is) => is.partials);
  return `at most ${byteText(most((is) => is.bytes))} in ${partials} ${partials === 1 ? "Partial" : "Partials"}, the oldest ${(most((is) => is.oldestMs) / 1000).toFixed(1)} s old; ${byteText(most((is) => is.usedBytes))} in all`;
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
