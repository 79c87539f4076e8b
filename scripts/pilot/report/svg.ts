import type { FaultEntry } from "./report.js";

/** Columns of every chart of the report, so that times stand below one another. */
export const WIDTH = 900;
export const LEFT = 90;
export const RIGHT = 20;

export function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (mark) => `&#${mark.charCodeAt(0)};`);
}

/** The place of a time in a chart that spans the whole run. */
export function timeScale(endMs: number): (ms: number) => number {
  return (ms) => LEFT + (ms / endMs) * (WIDTH - LEFT - RIGHT);
}

export function timeAxis(endMs: number, y: number): string {
  const x = timeScale(endMs);
  return [0, 0.25, 0.5, 0.75, 1]
    .map(
      (part) =>
        `<text x="${x(part * endMs)}" y="${y}" text-anchor="${part === 1 ? "end" : "middle"}">${((part * endMs) / 1000).toFixed(0)} s</text>`,
    )
    .join("");
}

/** The time in which a site was cut off or its gateway dead, as a block. */
export function faultBlock(fault: FaultEntry, endMs: number, y: number, height: number): string {
  const x = timeScale(endMs);
  const from = x(fault.fromMs);
  const width = Math.max(3, x(fault.toMs ?? endMs) - from);
  const colour = fault.kind === "kill" ? "var(--bad)" : "var(--cut)";
  return `<rect x="${from.toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="${height}" rx="3" fill="${colour}" fill-opacity=".35"><title>${escaped(fault.what)}</title></rect>`;
}
