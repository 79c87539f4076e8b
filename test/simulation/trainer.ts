import type { Trainer } from "@tributary/device-sdk/trainer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { drawer } from "./settings.js";

/** What a device trained in a round: the same in every attempt. */
export type Trained = {
  readonly round: string;
  readonly device: string;
  readonly base: string;
  /** The base's values, flat, in layout order. */
  readonly from: Float32Array;
  readonly samples: number;
  /** Flat, in layout order. */
  readonly weights: Float32Array;
};

export type TrainerOptions = {
  readonly seed: number;
  readonly device: string;
  readonly clock: Clock;
  readonly nMax: number;
  readonly range: number;
  readonly mostMs: number;
  readonly onTrained: (trained: Trained) => void;
};

/** A trainer whose answer follows from the seed, the device and the round, after a while. */
export function simulatedTrainer(options: TrainerOptions): Trainer {
  const { seed, device, clock, nMax, range, mostMs } = options;
  const takeTime = (ms: number, signal: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      const timer = clock.setTimer(ms, resolve);
      signal.addEventListener("abort", () => {
        timer.cancel();
        reject(new Error("aborted"));
      });
    });
  return {
    async train(model, { round }, signal) {
      const draw = drawer(seededRandom(`train ${seed} ${device} ${round}`));
      await takeTime(draw.between(1, mostMs), signal);
      const samples = draw.whole(1, nMax);
      const spread = range * draw.of([0.01, 0.5, 1, 1.1]);
      const weights = new Map<string, Float32Array>();
      const from: number[] = [];
      const flat: number[] = [];
      for (const [name, { values }] of model.tensors) {
        const trained = values.map((value) => value + draw.between(-spread, spread));
        weights.set(name, trained);
        from.push(...values);
        flat.push(...trained);
      }
      options.onTrained({
        round,
        device,
        base: model.id,
        from: Float32Array.from(from),
        samples,
        weights: Float32Array.from(flat),
      });
      return { weights, samples, metrics: { loss: draw.between(0, 2) } };
    },
    async evaluate(model, signal) {
      const draw = drawer(seededRandom(`evaluate ${seed} ${device} ${model.id}`));
      await takeTime(draw.between(1, mostMs), signal);
      return { samples: draw.whole(1, nMax), metrics: { accuracy: draw.between(0, 1) } };
    },
  };
}
