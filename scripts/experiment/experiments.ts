import type { Experiment } from "./experiment.js";
import { lateSites } from "./late-sites/late-sites.js";
import { siteRounds } from "./site-rounds/site-rounds.js";

/** Every experiment, in the order of `--help`. */
export const experiments: readonly Experiment[] = [lateSites, siteRounds];
