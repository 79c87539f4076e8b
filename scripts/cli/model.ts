import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { ModelGroup, ModelRow } from "@tributary/cloud/store/rows.js";
import type { Command } from "commander";
import { firstOf } from "./api.js";
import { wholeNumber } from "./arguments.js";
import { existingFile, saveDownload } from "./download.js";
import { reasonOf, usageFailure } from "./failure.js";
import { partOf } from "./metrics.js";
import { type Column, fields, table } from "./text/table.js";
import { ago, bytes, count, metrics, text, time } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

const modelColumns = (nowMs: number): readonly Column<ModelRow>[] => [
  { title: "MODEL", cell: ({ id }) => id },
  { title: "STATE", cell: ({ state }) => state },
  { title: "PARENT", cell: ({ parent }) => text(parent) },
  { title: "DEVICES", cell: ({ contributors }) => count(contributors), align: "right" },
  { title: "SAMPLES", cell: ({ weight }) => count(weight), align: "right" },
  { title: "MADE", cell: ({ createdAtMs }) => ago(createdAtMs, nowMs) },
  { title: "EVALUATION", cell: (model) => metrics(partOf(model.metrics, "evaluation")) },
];

export function addModelCommands(model: Command, world: World): void {
  model
    .command("list")
    .description("show the models, the newest first")
    .option("--session <id>", "only those of this session")
    .option("--limit <n>", "models shown", wholeNumber, 100)
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<
        GlobalOptions & { session?: string; limit: number }
      >();
      const { session, limit } = options;
      const filter = session === undefined ? {} : { session };
      const models = await firstOf(apiOf(world, options).models(filter), limit);
      show(world, options, models, () =>
        models.length === 0
          ? "no model yet; make one with `tributary model import`\n"
          : table(modelColumns(world.nowMs()), models, world.stdout.width),
      );
    });
  model
    .command("show")
    .description("show where a model comes from and how it did")
    .argument("<id>", "the model's id, as spring.12")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const shown = await apiOf(world, options).model(id);
      show(world, options, shown, () => describe(shown, world.stdout.width));
    });
  model
    .command("trail")
    .description("show a model's parents, back to the first")
    .argument("<id>", "the model's id, as spring.12")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const trail = await firstOf(apiOf(world, options).trail(id));
      show(world, options, trail, () =>
        table(modelColumns(world.nowMs()), trail, world.stdout.width),
      );
    });
  addTransfers(model, world);
  model
    .command("activate")
    .description("make a model the one that its session goes on from")
    .argument("<id>", "the model's id, as spring.12")
    .option("--session <id>", "which session, where several began with the model")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { session?: string }>();
      const answer = await apiOf(world, options).activate(id, options.session);
      show(world, options, answer, () => `session ${answer.id} goes on from ${id}\n`);
    });
}

function addTransfers(model: Command, world: World): void {
  model
    .command("download")
    .description("save a model as a safetensors file, its digest verified")
    .argument("<id>", "the model's id, as spring.12")
    .option("--out <file>", "where to; default: <id>.safetensors")
    .option("--force", "replace a file that exists")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { out?: string; force?: boolean }>();
      const { out, force = false } = options;
      const file = out ?? `${id.replaceAll("/", "_")}.safetensors`;
      if (!force && existsSync(file)) throw existingFile(file);
      const api = apiOf(world, options);
      const { digest } = await api.model(id);
      const length = await saveDownload({ chunks: api.modelFile(id), digest, file, force });
      const saved = { model: id, file, bytes: length, digest };
      show(world, options, saved, () => `${file}: ${bytes(length)}, sha256 ${digest}\n`);
    });
  model
    .command("import")
    .description("give the cloud a safetensors file as a first model")
    .argument("<file>", "a safetensors file of float32 tensors")
    .requiredOption("--name <name>", "the model becomes <name>.0")
    .option("--project <id>", "the project that it is for; default: default")
    .action(async (file: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { name: string; project?: string }>();
      const content = await readFile(file).catch((error: unknown) => {
        throw usageFailure(`cannot read ${file}: ${reasonOf(error)}`);
      });
      const imported = await apiOf(world, options).importModel(
        options.name,
        content,
        options.project,
      );
      show(
        world,
        options,
        imported,
        () => `model ${imported.id}: ${bytes(imported.bytes)}, sha256 ${imported.digest}\n`,
      );
    });
}

const groupColumns: readonly Column<ModelGroup>[] = [
  { title: "BASE", cell: ({ base }) => base },
  { title: "SITE", cell: ({ site }) => text(site) },
  { title: "AGE", cell: ({ age }) => count(age), align: "right" },
  { title: "WEIGHT", cell: ({ coefficient }) => coefficient.toPrecision(4), align: "right" },
  { title: "SAMPLES", cell: ({ samples }) => count(samples), align: "right" },
  { title: "DEVICES", cell: ({ contributors }) => count(contributors), align: "right" },
  { title: "CARRIED", cell: ({ carried }) => count(carried), align: "right" },
];

function describe(model: ModelRow, width: number): string {
  const { groups } = model;
  const head = fields(fieldsOf(model));
  // One group alone, on the parent, is what the fields say already.
  const plain = groups === null || (groups.length <= 1 && groups[0]?.site == null);
  return plain ? head : `${head}\n${table(groupColumns, groups, width)}`;
}

function fieldsOf(model: ModelRow): Parameters<typeof fields>[0] {
  return [
    ["model", model.id],
    ["state", model.state],
    ["parent", text(model.parent)],
    ["session", text(model.session)],
    ["round", text(model.round)],
    ["samples", count(model.weight)],
    ["devices", count(model.contributors)],
    ["training", metrics(partOf(model.metrics, "training"))],
    ["evaluation", metrics(partOf(model.metrics, "evaluation"))],
    ["parameters", count(model.parameters)],
    ["file", bytes(model.bytes)],
    ["sha256", model.digest],
    ["sum sha256", model.sumDigest ?? undefined],
    ["made", time(model.createdAtMs)],
  ];
}
