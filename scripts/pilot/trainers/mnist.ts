import type { Trainer } from "@tributary/device-sdk/trainer.js";
import { z } from "zod";
import { type Mnist, pick, readMnist } from "../mnist/data.js";
import { split, splitTest } from "../mnist/split.js";
import { createDenseTrainer } from "./dense.js";

const count = z.number().int().min(1);
const optionsSchema = z
  .strictObject({
    /** Of the whole fleet: every device derives the same split, and keeps its own share of it. */
    sites: count,
    devices: count,
    seed: z.number().int(),
    /** The device's place in the split, from 0. */
    device: z.number().int().min(0),
  })
  .refine(({ device, devices }) => device < devices, { message: "device must be below devices" });

let data: Promise<Mnist> | undefined;

/** The trainer module of one MNIST device of the pilot. Options: sites, devices, seed, device. */
export async function createTrainer(options: Readonly<Record<string, unknown>>): Promise<Trainer> {
  const fleet = optionsSchema.parse(options);
  data ??= readMnist();
  const { train, test } = await data;
  const { devices } = split(train.labels, fleet);
  const tests = splitTest(test.count, fleet);
  return createDenseTrainer({
    train: pick(train, devices[fleet.device]?.train ?? []),
    test: pick(test, tests[fleet.device] ?? []),
    device: String(fleet.device),
  });
}
