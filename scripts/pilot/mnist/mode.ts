import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import type { Mode } from "../mode.js";
import { modelOf } from "../model-view.js";
import { createDenseTrainer, denseLayout, initialDense } from "../trainers/dense.js";
import { PROVENANCE, pick, readMnist } from "./data.js";
import { mnistSettings } from "./settings.js";
import { type DeviceShare, type Split, split } from "./split.js";

type MnistRun = {
  readonly sites: number;
  readonly devices: number;
  readonly seed: number;
  readonly rounds: number | undefined;
};

const SESSION = "digits";

/** Handwritten digits, split so that no site has seen all of them. */
export async function createMnistMode(run: MnistRun): Promise<Mode> {
  const rounds = run.rounds ?? mnistSettings.rounds;
  const { train, test } = await readMnist();
  const shares = split(train.labels, run);
  // Measures models only: it has no training samples of its own.
  const judge = await createDenseTrainer({ train: pick(train, []), test, device: "judge" });
  const accuracy: Mode["accuracy"] = async (model) => {
    const { metrics } = await judge.evaluate(modelOf(model), new AbortController().signal);
    return metrics.accuracy;
  };
  const sites = Array.from({ length: run.sites }, (_, site) => siteOf(site, shares, run));
  return {
    name: "mnist",
    provenance: PROVENANCE,
    sites,
    siteEntries: sites.map(({ site, gateway }, index) => ({
      site,
      gateway,
      lacks: shares.sites[index]?.lacks ?? [],
      devices: sharesOf(shares, index).map((share) => ({
        device: deviceId(share),
        holds: share.digits.join(" "),
        samples: share.train.length,
      })),
    })),
    trainerModule: new URL("../trainers/mnist.js", import.meta.url).pathname,
    async nextSession(previousModel) {
      if (previousModel !== undefined) return undefined;
      return {
        isMain: true,
        initialModel: encodeSafetensors(denseLayout, initialDense(run.seed)),
        params: {
          ...mnistSettings,
          name: SESSION,
          initialModel: `${SESSION}-start.0`,
          rounds,
          training: {
            ...mnistSettings.training,
            // The same cooling from the first round to the last, however many there are.
            learningRateDecay:
              mnistSettings.training.learningRateDecay ** (mnistSettings.rounds / rounds),
          },
          seed: run.seed,
          sitesQuorum: Math.max(1, run.sites - 1),
          deadlineMs: 60_000,
          uploadWindowMs: 10_000,
          // Longer than a gateway takes to come back after a kill, shorter than a reader's patience.
          absentGraceMs: 5_000,
        },
      };
    },
    accuracy,
    async result(finalModel) {
      const finalAccuracy = await accuracy(finalModel);
      return finalAccuracy === undefined ? {} : { finalAccuracy };
    },
  };
}

function sharesOf(shares: Split, site: number): readonly DeviceShare[] {
  return shares.devices.filter((share) => share.site === site);
}

function deviceId({ site, device }: DeviceShare): string {
  return `${siteName(site)}-device-${device + 1}`;
}

function siteName(site: number): string {
  return `hall-${String.fromCharCode("a".charCodeAt(0) + site)}`;
}

function siteOf(site: number, shares: Split, { sites, devices, seed }: MnistRun) {
  return {
    site: siteName(site),
    gateway: `gateway-${siteName(site)}`,
    devices: sharesOf(shares, site).map((share) => ({
      device: deviceId(share),
      options: { sites, devices, seed, device: share.device },
    })),
  };
}
