/** The live view of a run: redrawn in place on a terminal, one plain line a round elsewhere. */

export type SiteProgress = {
  readonly site: string;
  readonly link: "up" | "cut" | "down";
  readonly process: "up" | "killed";
  readonly devices: number;
  /** Updates that the gateway holds of the open round, and devices that it asked. */
  readonly folded: number;
  readonly asked: number;
  /** What waits for the uplink, and all that the buffer holds, where the gateway said so. */
  readonly waiting?: {
    readonly bytes: number;
    readonly oldestMs: number;
    readonly usedBytes: number;
  };
};

/** What the models of the main session are judged by, one value a model. */
export type Curve = {
  /** Of the model on data that nobody trains on; or the loss that the devices reported. */
  readonly name: "accuracy" | "loss";
  readonly values: readonly number[];
};

export type Progress = {
  readonly round: number;
  readonly rounds: number;
  /** Rounds that made a model. */
  readonly done: number;
  readonly phase: string;
  readonly curve: Curve;
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
      const key = `${progress.round} ${progress.curve.values.length} ${siteStates(progress)}`;
      if (key === shown) return;
      shown = key;
      out.write(`${line}  ${progress.sites.map(siteText).join(", ")}\n`);
    },
    note: (text) => void out.write(`${text}\n`),
  };
}

function siteStates(progress: Progress): string {
  return progress.sites.map((site) => `${site.site} ${stateOf(site)}`).join(", ");
}

function siteText(site: SiteProgress): string {
  const state = stateOf(site);
  const waiting = state === "cut" && site.waiting !== undefined ? waitingText(site.waiting) : "";
  return `${site.site} ${state}${waiting}`;
}

function summaryLine(progress: Progress): string {
  return [
    `round ${String(progress.round).padStart(2)}/${progress.rounds}`,
    ...newestValue(progress.curve),
    `contributions ${progress.contributions}`,
    timeLeft(progress),
  ].join("  ");
}

/** Nothing before the first model, and in a session that is judged by none. */
function newestValue({ name, values }: Curve): string[] {
  const value = values.at(-1);
  if (value === undefined) return [];
  return [
    `${name} ${name === "accuracy" ? `${(value * 100).toFixed(2)} %` : value.toPrecision(3)}`,
  ];
}

/** Linear in the rounds done: each costs about the same. */
function timeLeft({ done, rounds, elapsedMs }: Progress): string {
  if (done === 0) return "time left -";
  const seconds = Math.ceil(((elapsedMs / done) * Math.max(0, rounds - done)) / 1000);
  return `time left ${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

const bars = "▁▂▃▄▅▆▇█";

/** Bars for values from 0 to 1. */
export function sparkline(values: readonly number[], width: number): string {
  return values
    .slice(-width)
    .map((value) => bars[Math.min(bars.length - 1, Math.max(0, Math.floor(value * bars.length)))])
    .join("");
}

/** Accuracies as they are; losses as shares of the highest. */
function shares({ name, values }: Curve): readonly number[] {
  const most = name === "accuracy" ? 1 : Math.max(...values);
  return values.map((value) => value / most);
}

function progressBar(done: number, all: number, width: number): string {
  const full = Math.round((Math.min(done, all) / Math.max(1, all)) * width);
  return `${"█".repeat(full)}${"░".repeat(width - full)}`;
}

function liveView(out: Terminal): ProgressView {
  let lines = 0;
  let last: Progress | undefined;
  const erase = () => {
    // To the line's begin, too: a terminal shows Ctrl-C as ^C where the cursor stands.
    if (lines > 0) out.write(`\r\u001b[${lines}A\u001b[J`);
    lines = 0;
  };
  const draw = (progress: Progress) => {
    const width = Math.max(40, Math.min(out.columns ?? 80, 100));
    const cut = (line: string) => line.slice(0, width - 1);
    const text = [
      cut(
        `${progressBar(progress.done, progress.rounds, Math.min(30, width - 50))}  ${progress.phase}`,
      ),
      cut(summaryLine(progress)),
      cut(sparkline(shares(progress.curve), width - 2)),
      ...progress.sites.map((site) => coloured(site, cut(siteLine(site)))),
    ];
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
  const state = stateOf(site);
  const link = state === "up" ? "uplink up" : state === "killed" ? "killed" : "uplink cut";
  const updates = `${site.folded}/${site.asked} updates`;
  const columns = [
    site.site.padEnd(14),
    link.padEnd(10),
    `${site.devices} devices`.padStart(11),
    updates.padStart(13),
    ...(state === "cut" && site.waiting !== undefined ? [waitingText(site.waiting)] : []),
  ];
  return `${MARK} ${columns.join(" ")}`;
}

const MARK = "●";

/** After the line is cut to its width: colours have none. */
function coloured(site: SiteProgress, line: string): string {
  return line.replace(MARK, `\u001b[${colours[stateOf(site)]}m${MARK}\u001b[0m`);
}

function stateOf(site: SiteProgress): keyof typeof colours {
  return site.process === "killed" ? "killed" : site.link;
}

/** Sealed Partials with their age; until there are some, what they will come from. */
function waitingText({ bytes, oldestMs, usedBytes }: NonNullable<SiteProgress["waiting"]>): string {
  if (bytes === 0) return ` ${byteText(usedBytes)} held`;
  return ` ${byteText(bytes)} wait ${(oldestMs / 1_000).toFixed(0)} s`;
}

/** In decimal units: `820 kB`, `1.2 MB`. */
export function byteText(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"] as const;
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1_000;
    unit++;
  }
  return `${unit === 0 || value >= 9.95 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}
