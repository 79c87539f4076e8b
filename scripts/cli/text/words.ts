/** Figures as a person reads them. */

const absent = "-";

export function count(value: number | undefined): string {
  return value === undefined ? absent : String(value);
}

export function text(value: string | null | undefined): string {
  return value ?? absent;
}

/** `512 B`, `1.5 MB`: powers of 1000. */
export function bytes(value: number | undefined): string {
  if (value === undefined) return absent;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

/** `4 s`, `12 min`, `3 h`, `9 d`. */
export function duration(durationMs: number): string {
  const seconds = Math.max(0, Math.round(durationMs / 1000));
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} d`;
}

/** How long ago, at `nowMs`, a wall-clock time was. */
export function ago(atMs: number | null | undefined, nowMs: number): string {
  return atMs === undefined || atMs === null ? absent : `${duration(nowMs - atMs)} ago`;
}

/** RFC 3339, to the second. */
export function time(atMs: number | null | undefined): string {
  if (atMs === undefined || atMs === null) return absent;
  return new Date(atMs).toISOString().replace(/\.\d+Z$/, "Z");
}

/** `accuracy 0.9312, loss 0.2201`. */
export function metrics(values: Readonly<Record<string, number>> | undefined): string {
  const entries = Object.entries(values ?? {});
  if (entries.length === 0) return absent;
  return entries.map(([name, value]) => `${name} ${figure(value)}`).join(", ");
}

function figure(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toPrecision(4);
}
