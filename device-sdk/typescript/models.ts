import { type Layout, sameLayout, tensorLength } from "@tributary/proto/algebra/layout.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { digestSchema, modelIdSchema } from "@tributary/proto/wire/ids.js";
import type { Manifest } from "@tributary/proto/wire/plan.js";
import { decodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import { createDiskQueue, type HeldChunks, heldFile, openHeldChunks } from "./held.js";
import { limits } from "./limits.js";
import type { Model } from "./trainer.js";

/** A decoded model file. */
export type StoredModel = {
  readonly id: string;
  readonly digest: string;
  readonly layout: Layout;
  /** Every value, flat, in layout order. */
  readonly values: Float32Array;
};

/**
 * The models a device keeps: the last good one, with which it predicts offline, and one more, such
 * as the candidate of an evaluation that may be published next. With a disk they are files, and
 * outlive the process; without one they live in memory.
 */
export type Models = {
  /** The cloud's last model that was published or trained from; never a site's own. */
  good(): StoredModel | undefined;
  /** A model that is kept, by the digest of its file. */
  load(digest: string): Promise<StoredModel | undefined>;
  markGood(digest: string): void;
  /**
   * Checks and keeps a model file whose bytes are the manifest's. The disk is written in the
   * background, as nothing is promised of a model; a failure is reported, and memory still has it.
   */
  keep(
    manifest: Manifest,
    layout: Layout,
    bytes: Uint8Array,
    good: boolean,
  ): Verdict<{ readonly model: StoredModel }, "model-malformed" | "wrong-shape">;
  /** What an earlier, broken transfer of this file left, to go on with. */
  openHeld(manifest: Manifest): Promise<HeldChunks>;
  /** Resolves when nothing is being written. */
  settled(): Promise<void>;
};

const INDEX = "models.json";

const indexSchema = z.strictObject({
  version: z.literal(1),
  /** Oldest first. */
  models: z.array(z.strictObject({ id: modelIdSchema, digest: digestSchema })).max(limits.models),
  /** Digest of the last good model. */
  good: digestSchema.optional(),
  /** SHA-256 of the two above, as JSON; earlier releases wrote none. */
  checksum: digestSchema.optional(),
});

type Index = Pick<z.infer<typeof indexSchema>, "models" | "good">;

function checksumOf({ models, good }: Index): string {
  return sha256(JSON.stringify([models, good ?? null]));
}

type Entry = { readonly id: string; readonly digest: string; readonly decoded?: StoredModel };

export async function openModels(
  disk: Disk | undefined,
  onFailure: (what: string, message: string) => void,
): Promise<Models> {
  let { entries, good } = await readIndex(disk, onFailure);

  const find = (digest: string): Entry | undefined =>
    entries.find((entry) => entry.digest === digest);

  const decode = async (entry: Entry): Promise<StoredModel | undefined> => {
    if (entry.decoded !== undefined) return entry.decoded;
    const bytes = await readIfThere(disk, modelFile(entry.digest));
    const file = bytes && sha256(bytes) === entry.digest ? decodeSafetensors(bytes) : undefined;
    if (!file?.ok) {
      onFailure("model", `the file of ${entry.id} is missing or damaged`);
      entries = entries.filter((other) => other !== entry);
      return undefined;
    }
    const { layout, values } = file;
    const decoded = { id: entry.id, digest: entry.digest, layout, values };
    entries = entries.map((other) => (other === entry ? { ...entry, decoded } : other));
    return decoded;
  };

  const { onDisk, settled } = createDiskQueue(disk, onFailure);

  const writeIndex = async (to: Disk): Promise<void> => {
    const models = entries.map(({ id, digest }) => ({ id, digest }));
    const index: Index = { models, ...(good !== undefined && { good }) };
    const text = JSON.stringify({ version: 1, ...index, checksum: checksumOf(index) });
    await to.writeFileAtomic(INDEX, [new TextEncoder().encode(`${text}\n`)]);
  };

  /** Takes out the oldest that is not the last good one, until the bound holds. */
  const prune = (): void => {
    while (entries.length > limits.models) {
      const oldest = entries.find((entry) => entry.digest !== good);
      if (oldest === undefined) break;
      entries = entries.filter((entry) => entry !== oldest);
    }
  };

  void onDisk("model", (on) => removeUnnamed(on, entries));
  const goodEntry = good === undefined ? undefined : find(good);
  if (goodEntry !== undefined && (await decode(goodEntry)) === undefined) good = undefined;

  return {
    good: () => (good === undefined ? undefined : find(good)?.decoded),
    async load(digest) {
      const entry = find(digest);
      return entry && decode(entry);
    },
    markGood(digest) {
      if (good === digest) return;
      good = digest;
      void onDisk("model index", writeIndex);
    },
    keep(manifest, layout, bytes, isGood) {
      const file = decodeSafetensors(bytes);
      if (!file.ok) return file;
      const { model: id, digest } = manifest;
      if (!sameLayout(file.layout, layout))
        return refuse("wrong-shape", `the file of ${id} has another layout than the plan`);
      const decoded = { id, digest, layout: file.layout, values: file.values };
      entries = [...entries.filter((entry) => entry.digest !== digest), { id, digest, decoded }];
      if (isGood) good = digest;
      prune();
      void onDisk("model", async (to) => {
        await to.writeFileAtomic(modelFile(digest), [bytes]);
        await writeIndex(to);
        // Those of earlier models, too, which could not be removed while the disk took no writes.
        await removeUnnamed(to, entries);
        if (await to.exists(heldFile(digest))) await to.remove(heldFile(digest));
      });
      return { ok: true, model: decoded };
    },
    openHeld: (manifest) => openHeldChunks(onDisk, manifest),
    settled,
  };
}

/** A trainer's view of a stored model: nothing is copied. */
export function viewModel({ id, digest, layout, values }: StoredModel): Model {
  const tensors = new Map<string, { shape: readonly number[]; values: Float32Array }>();
  let start = 0;
  for (const spec of layout) {
    const end = start + tensorLength(spec);
    tensors.set(spec.name, { shape: spec.shape, values: values.subarray(start, end) });
    start = end;
  }
  return { id, digest, tensors };
}

function modelFile(digest: string): string {
  return `${digest}.safetensors`;
}

async function readIfThere(disk: Disk | undefined, path: string): Promise<Uint8Array | undefined> {
  return disk !== undefined && (await disk.exists(path)) ? disk.readFile(path) : undefined;
}

async function readIndex(
  disk: Disk | undefined,
  onFailure: (what: string, message: string) => void,
): Promise<{ entries: readonly Entry[]; good: string | undefined }> {
  const bytes = await readIfThere(disk, INDEX);
  if (bytes === undefined) return { entries: [], good: undefined };
  try {
    const index = indexSchema.parse(JSON.parse(new TextDecoder().decode(bytes)));
    if (index.checksum !== undefined && index.checksum !== checksumOf(index))
      throw new Error("the checksum is of other content");
    return { entries: index.models, good: index.good };
  } catch {
    // Models can be fetched again; a device that does not start cannot.
    onFailure("model index", `${INDEX} is damaged or of a newer version; models are fetched anew`);
    return { entries: [], good: undefined };
  }
}

/** Removes files of models that no index names any more, or none after damage to it. */
async function removeUnnamed(disk: Disk, entries: readonly Entry[]): Promise<void> {
  const named = new Set(entries.map(({ digest }) => modelFile(digest)));
  for (const name of await disk.list("."))
    if (name.endsWith(".safetensors") && !named.has(name)) await disk.remove(name);
}
