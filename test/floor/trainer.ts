import type { Trainer } from "@tributary/device-sdk/trainer.js";

/**
 * The value that a device adds to a weight in a round: made from the device's name, the round's
 * number and the coordinate alone, so that whoever checks a model knows what went into it.
 * Between -0.5 and 0.5, and on no grid.
 */
export function stepOf(device: string, round: number, coordinate: number): number {
  let hash = 0x811c9dc5;
  for (const character of `${device}/${round}/${coordinate}`) {
    hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  hash = Math.imul(hash ^ (hash >>> 12), 0x297a2d39);
  return ((hash ^ (hash >>> 15)) >>> 0) / 2 ** 32 - 0.5;
}

function roundNumber(round: string): number {
  return Number(round.slice(round.lastIndexOf(".") + 1));
}

/** A trainer that a test can watch and hold. */
export type WatchedTrainer = Trainer & {
  /** Rounds that it was asked to train for, in order; a round asked for twice stands twice. */
  readonly asked: readonly string[];
  /** The model that each of these trainings started from. */
  readonly bases: readonly string[];
  /** From now on trainings of round `from` and later wait until `release`; evaluations do not. */
  hold(from?: number): void;
  release(): void;
};

export type TrainerOptions = {
  readonly device: string;
  readonly samples: number;
  /** Accuracy of a model by its id. */
  readonly accuracyOf?: (model: string) => number;
  /** What is done to the new weights of a round before they are handed over. */
  readonly spoil?: (weights: Float32Array, round: string) => void;
};

/** Adds `stepOf` to every weight. */
export function createStepTrainer(options: TrainerOptions): WatchedTrainer {
  const { device, samples, accuracyOf = () => 0.5, spoil } = options;
  const asked: string[] = [];
  const bases: string[] = [];
  let held: Promise<void> | undefined;
  let heldFrom = 1;
  let open: () => void = () => {};
  return {
    asked,
    bases,
    hold(from = 1) {
      heldFrom = from;
      held ??= new Promise((resolve) => {
        open = resolve;
      });
    },
    release() {
      open();
      held = undefined;
    },
    async train({ id, tensors }, { round }, signal) {
      asked.push(round);
      bases.push(id);
      const number = roundNumber(round);
      if (held !== undefined && number >= heldFrom) await Promise.race([held, aborted(signal)]);
      const weights = new Map<string, Float32Array>();
      let at = 0;
      for (const [name, { values }] of tensors) {
        const start = at;
        const moved = values.map((value, i) => value + stepOf(device, number, start + i));
        spoil?.(moved, round);
        weights.set(name, moved);
        at += values.length;
      }
      return { weights, samples, metrics: { loss: 1 / number } };
    },
    async evaluate({ id }) {
      return { samples, metrics: { accuracy: accuracyOf(id) } };
    },
    predict: ({ id, tensors }) => ({ model: id, tensors: [...tensors.keys()] }),
  };
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const stop = () => reject(new Error("the round is over"));
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}
