import { parameterCount } from "@tributary/proto/algebra/layout.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk, ReadFile } from "@tributary/proto/host/disk.js";
import type { Random } from "@tributary/proto/host/random.js";
import { decodeCbor, encodeCbor } from "@tributary/proto/wire/cbor.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { numberedId } from "@tributary/proto/wire/ids.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import {
  decodeSafetensors,
  encodeSafetensors,
  type SafetensorsFile,
} from "@tributary/proto/wire/safetensors.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { ModelFiles } from "./candidate.js";
import type { PlanBase } from "./round-plan.js";
import { storeLimits } from "./store/limits.js";
import type { ModelRow } from "./store/rows.js";
import type { Store } from "./store/store.js";

type ImportCode = "model-malformed" | "too-large" | "model-exists" | "busy";

/**
 * Model files: safetensors, named by the SHA-256 of their bytes, written once. The store's trail
 * says which model has which file; a file that the trail does not know is removed at the next start.
 */
export type Models = ModelFiles & {
  /**
   * Takes a user's safetensors file as model `<name>.0`, the root of a trail. It must hold finite
   * float32 tensors. Refusals: `model-malformed`, `too-large`, `model-exists`, `busy`. Durable when
   * it resolves.
   */
  importFile(
    name: string,
    pieces: AsyncIterable<Uint8Array>,
    nowMs: number,
    project?: string,
  ): Promise<Verdict<{ readonly model: ModelRow }, ImportCode>>;
  /** Opens a file of the trail for reading ranges. The caller closes it. */
  open(digest: string): Promise<ReadFile>;
  /** Removes what a crash left behind: unfinished imports, and files without a row. */
  sweep(): Promise<void>;
};

export function createModels(disk: Disk, store: Store, random: Random): Models {
  const cache = createCache<PlanBase>(storeLimits.manifestsCached);
  let imports = 0;
  let decoding: Promise<unknown> = Promise.resolve();

  const rowOf = async (model: string): Promise<ModelRow> => {
    const row = await store.model(model);
    if (row === undefined) throw new TributaryError("store-unknown", `no model ${model}`);
    return row;
  };
  const readRow = async (row: ModelRow) => {
    const bytes = await disk.readFile(pathOf(row.digest));
    const file = decodeSafetensors(bytes);
    if (!file.ok || sha256(bytes) !== row.digest)
      throw new TributaryError("disk-failed", `the file of ${row.id} is damaged: ${row.digest}`);
    return { bytes, file };
  };
  const save = async (model: string, bytes: Uint8Array, layout: PlanBase["layout"]) => {
    const manifest = makeManifest(model, bytes, sha256);
    if (!(await disk.exists(pathOf(manifest.digest))))
      await disk.writeFileAtomic(pathOf(manifest.digest), [bytes]);
    cache.set(model, { manifest, layout });
    return { digest: manifest.digest, bytes: bytes.length };
  };

  const take = async (name: string, temporary: string, nowMs: number, project?: string) => {
    const bytes = await disk.readFile(temporary);
    const file = decodeSafetensors(bytes);
    if (!file.ok) return file;
    const id = numberedId(name, 0);
    const unfit = judge(id, bytes, file);
    if (unfit !== undefined) return unfit;
    if ((await store.model(id)) !== undefined) return exists(id);
    // A session's own models are what its rounds made, and the one it began with.
    if ((await store.session(name)) !== undefined)
      return refuse("model-exists", `a session is named ${name}; import under another name`);
    const saved = await save(id, bytes, file.layout);
    const model: ModelRow = {
      id,
      ...saved,
      parameters: parameterCount(file.layout),
      parent: null,
      version: 0,
      session: null,
      round: null,
      state: "published",
      weight: 0,
      contributors: 0,
      metrics: {},
      sumDigest: null,
      groups: null,
      fractionBits: null,
      createdAtMs: nowMs,
    };
    if (await store.addModel(model, project)) return { ok: true as const, model };
    cache.delete(id);
    return exists(id);
  };

  return {
    async base(model) {
      const cached = cache.get(model);
      if (cached !== undefined) return cached;
      const row = await store.model(model);
      if (row === undefined) return undefined;
      const { bytes, file } = await readRow(row);
      const base = { manifest: makeManifest(model, bytes, sha256), layout: file.layout };
      cache.set(model, base);
      return base;
    },
    values: async (model) => (await readRow(await rowOf(model))).file.values,
    write: (model, layout, values) =>
      save(model, encodeSafetensors(layout, values, { model }), layout),
    async importFile(name, pieces, nowMs, project) {
      if (imports >= storeLimits.importsAtOnce)
        return refuse("busy", `${imports} imports are under way; try again later`);
      imports++;
      const temporary = `${FOLDER}/${IMPORT}${random.id(16)}`;
      try {
        const received = await receive(disk, temporary, pieces);
        if (!received.ok) return received;
        // One file at a time is held in memory whole, whatever arrives at once.
        const turn = decoding.then(() => take(name, temporary, nowMs, project));
        decoding = turn.catch(() => undefined);
        return await turn;
      } finally {
        imports--;
        await disk.remove(temporary);
      }
    },
    open: (digest) => disk.openRead(pathOf(digest)),
    async sweep() {
      const names = await disk.list(FOLDER);
      const digests = names.filter(isModelFile).map((name) => name.slice(0, DIGEST_CHARS));
      const known = await store.knownDigests(digests);
      for (const name of names)
        if (!isModelFile(name) || !known.has(name.slice(0, DIGEST_CHARS)))
          await disk.remove(`${FOLDER}/${name}`);
    },
  };
}

const FOLDER = "models";
const SUFFIX = ".safetensors";
const IMPORT = "import-";
const DIGEST_CHARS = 64;

function pathOf(digest: string): string {
  return `${FOLDER}/${digest}${SUFFIX}`;
}

function isModelFile(name: string): boolean {
  return /^[0-9a-f]{64}\.safetensors$/.test(name);
}

function exists(id: string): Refusal<"model-exists"> {
  return refuse("model-exists", `model ${id} exists; nothing in the trail is overwritten`);
}

/** Streams an upload into a file, up to the bound of a model and its header. */
async function receive(
  disk: Disk,
  path: string,
  pieces: AsyncIterable<Uint8Array>,
): Promise<Verdict<object, "too-large">> {
  await disk.makeDir(FOLDER);
  const file = await disk.openAppend(path);
  try {
    for await (const piece of pieces) {
      if (file.size + piece.length > wireLimits.modelBytes)
        return refuse("too-large", `a model file has at most ${wireLimits.modelBytes} bytes`);
      await file.append([piece]);
    }
    return { ok: true };
  } finally {
    await file.close();
  }
}

/** Room in an offer for all but the model: ids, training parameters, the rest of the plan. */
const OFFER_REST_BYTES = 32 * 1024;
const OFFER_REST_ITEMS = 1_024;

/** Why a well-formed file cannot be a session's model; undefined when it can. */
function judge(
  id: string,
  bytes: Uint8Array,
  { layout, values }: SafetensorsFile,
): Refusal<"model-malformed"> | undefined {
  if (values.length === 0) return refuse("model-malformed", "the file holds no values");
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) return refuse("model-malformed", `value ${bad} is not finite: ${values[bad]}`);
  const base = encodeCbor({ layout, base: makeManifest(id, bytes, sha256) });
  const bounds = {
    depth: wireLimits.headerDepth,
    items: wireLimits.headerItems - OFFER_REST_ITEMS - layout.length,
  };
  if (base.length > wireLimits.downHeaderBytes - OFFER_REST_BYTES || !decodeCbor(base, bounds).ok)
    return refuse(
      "model-malformed",
      `its ${layout.length} tensors' names and shapes are too many to offer to a device`,
    );
  return undefined;
}

/** The `size` entries that were used last. */
function createCache<V>(size: number) {
  const entries = new Map<string, V>();
  return {
    get(key: string): V | undefined {
      const value = entries.get(key);
      if (value !== undefined) this.set(key, value);
      return value;
    },
    set(key: string, value: V): void {
      entries.delete(key);
      entries.set(key, value);
      for (const oldest of entries.keys()) {
        if (entries.size <= size) break;
        entries.delete(oldest);
      }
    },
    delete(key: string): void {
      entries.delete(key);
    },
  };
}
