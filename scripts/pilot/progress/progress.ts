/** The live view of a run: redrawn in place on a terminal, one plain line a round elsewhere. */

export type SiteProgress = {
  readonly site: string;
  readonly link: "up" | "cut" | "down";
  readonly process: "up" | "killed";
  readonly devices: number;
  /** Updates that the gateway holds of the open round, and devices that it asked. */
  readonly folded: number;
  readonly asked: number;
};

export type Progress = {
  readonly round: number;
  readonly rounds: number;
  /** Rounds that made a model. */
  readonly done: number;
  readonly phase: string;
  readonly accuracies: readonly number[];
  readonly contributions: number;
  readonly sites: readonly SiteProgress[];
  readonly elapsedMs: number;
};

export type ProgressView = {
  update(progress: Progress): void;
  /** A line that stays, above the live part. */
  note(text: string): void;
};

type Terminal = {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
};

export function createProgressView(out: Terminal): ProgressView {
  return out.isTTY === true ? liveView(out) : plainView(out);
}

function plainView(out: Terminal): ProgressView {
  let shown = "";
  return {
    update(progress) {
      const line = summaryLine(progress);
      const key = `${progress.round} ${progress.accuracies.length} ${siteStates(progress)}`;
      if (key === shown) return;
      shown = key;
      out.write(`${line}  ${siteStates(progress)}\n`);
    },
    note: (text) => void out.write(`${text}\n`),
  };
}

function siteStates(progress: Progress): string {
  return progress.sites.map((site) => `${site.site} ${siteState(site)}`).join(", ");
}

function siteState(site: SiteProgress): string {
  if (site.process === "killed") return "killed";
  return site.link === "up" ? "up" : site.link;
}

function summaryLine(progress: Progress): string {
  const accuracy = progress.accuracies.at(-1);
  return [
    `round ${String(progress.round).padStart(2)}/${progress.rounds}`,
    accuracy === undefined ? "accuracy  -    " : `accuracy ${(accuracy * 100).toFixed(2)} %`,
    `contributions ${progress.contributions}`,
    timeLeft(progress),
  ].join("  ");
}

/** Linear in the rounds done: each costs about the same. */
function timeLeft({ done, rounds, elapsedMs }: Progress): string {
  if (done === 0) return "time left -";
  const seconds = Math.ceil(((elapsedMs / done) * Math.max(0, rounds - done)) / 1000);
  return `time left ${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

const bars = "▁▂▃▄▅▆▇█";

export function sparkline(values: readonly number[], width: number): string {
  return values
    .slice(-width)
    .map((value) => bars[Math.min(bars.length - 1, Math.max(0, Math.floor(value * bars.length)))])
    .join("");
}

function progressBar(done: number, all: number, width: number): string {
  const full = Math.round((Math.min(done, all) / Math.max(1, all)) * width);
  return `${"█".repeat(full)}${"░".repeat(width - full)}`;
}

function liveView(out: Terminal): ProgressView {
  let lines = 0;
  let last: Progress | undefined;
  const erase = () => {
    if (lines > 0) out.write(`\u001b[${lines}A\u001b[J`);
    lines = 0;
  };
  const draw = (progress: Progress) => {
    const width = Math.max(40, Math.min(out.columns ?? 80, 100));
    const text = [
      `${progressBar(progress.done, progress.rounds, Math.min(30, width - 50))}  ${progress.phase}`,
      summaryLine(progress),
      sparkline(progress.accuracies, width - 2),
      ...progress.sites.map((site) => siteLine(site)),
    ].map((line) => line.slice(0, width - 1));
    out.write(`${text.join("\n")}\n`);
    lines = text.length;
  };
  return {
    update(progress) {
      erase();
      last = progress;
      draw(progress);
    },
    note(text) {
      erase();
      out.write(`${text}\n`);
      if (last !== undefined) draw(last);
    },
  };
}

const colours = { up: 32, cut: 33, down: 33, killed: 31 } as const;

function siteLine(site: SiteProgress): string {
  const state = site.process === "killed" ? "killed" : site.link;
  const mark = `\u001b[${colours[state]}m●\u001b[0m`;
  const link = state === "up" ? "uplink up" : state === "killed" ? "killed" : "uplink cut";
  return `${mark} ${site.site.padEnd(16)} ${link.padEnd(12)} ${String(site.devices).padStart(3)} devices   ${site.folded}/${site.asked} updates`;
}
