import type { Detection } from "../report/report.js";

/** Rows by what they are and what the detector says. */
export type Confusion = {
  readonly tp: number;
  readonly fp: number;
  readonly tn: number;
  readonly fn: number;
};

/** Share of the calibration scores that lies below the threshold before the margin. */
const QUANTILE = 0.99;
const MARGIN = 1.5;
/** Weight of the newest error in the smoothed score: about the last ten rows count. */
const SMOOTHING = 0.2;

export const thresholdRule =
  `A row is an anomaly when its smoothed reconstruction error passes ${MARGIN} times the ` +
  `${QUANTILE * 100} % quantile of the device's own errors on the last quarter of its training part, on which it does not train.`;

/** Exponentially smoothed errors: an anomaly lasts, a glitch does not. */
export function smoothed(errors: ArrayLike<number>): Float64Array {
  const scores = new Float64Array(errors.length);
  let score = errors[0] ?? 0;
  for (let i = 0; i < errors.length; i++) {
    score += SMOOTHING * ((errors[i] ?? 0) - score);
    scores[i] = score;
  }
  return scores;
}

export function threshold(calibration: Float64Array): number {
  const sorted = Float64Array.from(calibration).sort();
  const at = Math.min(sorted.length - 1, Math.ceil(QUANTILE * sorted.length) - 1);
  return MARGIN * (sorted[Math.max(0, at)] ?? 0);
}

export function confusion(alarms: ArrayLike<boolean>, labels: ArrayLike<number>): Confusion {
  const counts = { tp: 0, fp: 0, tn: 0, fn: 0 };
  for (let i = 0; i < alarms.length; i++) {
    if (labels[i] === 1) counts[alarms[i] === true ? "tp" : "fn"]++;
    else counts[alarms[i] === true ? "fp" : "tn"]++;
  }
  return counts;
}

export function pooled(parts: readonly Confusion[]): Confusion {
  const sum = (name: keyof Confusion) => parts.reduce((total, part) => total + part[name], 0);
  return { tp: sum("tp"), fp: sum("fp"), tn: sum("tn"), fn: sum("fn") };
}

/** F1, false alarms among normal rows, missed alarms among anomalous rows. */
export function detection({ tp, fp, tn, fn }: Confusion): Detection {
  const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole);
  return {
    f1: share(2 * tp, 2 * tp + fp + fn),
    falseAlarmRate: share(fp, fp + tn),
    missedAlarmRate: share(fn, fn + tp),
  };
}
