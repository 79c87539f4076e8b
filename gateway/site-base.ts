import { sameLayout } from "@tributary/proto/algebra/layout.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { siteRoundId, splitNumberedId } from "@tributary/proto/wire/ids.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import type { Manifest, Plan } from "@tributary/proto/wire/plan.js";
import { decodeSafetensors, encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { holdFiles, releaseFiles } from "./packages.js";
import type { RoundWorld } from "./round-world.js";
import { siteModel } from "./site-model.js";
import type { SiteState } from "./site-state.js";

/** The models that one of the cloud's rounds needs here: its base, and the site's own after it. */
export type SiteBase = {
  /**
   * The base of the next site round: the cloud's, or the site model that the newest one made, kept
   * until the next is made and `prune` called. The same state gives the same file. Refused when it
   * cannot be made: the cloud's base is not here as a whole, or there is no room.
   */
  make(
    state: SiteState | undefined,
  ): Promise<
    Verdict<{ readonly manifest: Manifest }, "unknown-model" | "wrong-shape" | "storage-full">
  >;
  /** Forgets all site models of the round but the newest. */
  prune(): Promise<void>;
  /** Forgets all site models of the round; the cloud's base stays. */
  dropMade(): Promise<void>;
  /** Lets go of all of them. */
  close(): Promise<void>;
};

/** Wants the cloud's base, with the plan's package, and keeps them until `close`. */
export function openSiteBase(models: RoundWorld["models"], plan: Plan): SiteBase {
  let current: Manifest | undefined;
  const pinned = [plan.base.digest];
  holdFiles(models, plan);

  function unpinAllBut(count: number): void {
    for (const digest of pinned.splice(1, pinned.length - 1 - count)) models.unpin(digest);
  }

  async function dropAllBut(kept: string | undefined): Promise<void> {
    for (const { model, digest } of models.made()) {
      const { session, number } = splitNumberedId(model) ?? {};
      if (`${session}.${number}` === plan.round && digest !== kept) await models.drop(digest);
    }
  }

  async function dropMade(): Promise<void> {
    current = undefined;
    unpinAllBut(0);
    await dropAllBut(undefined);
  }

  async function readBase(): Promise<Float32Array | undefined> {
    const { digest, bytes } = plan.base;
    if (models.available(digest)?.bytes !== bytes) return undefined;
    const file = await models.read(digest, 0, bytes).catch((cause: unknown) => {
      // Found damaged, it is fetched anew: until then it is not here.
      if (models.available(digest)?.bytes === bytes) throw cause;
    });
    if (file === undefined) return undefined;
    const read = sha256(file) === digest ? decodeSafetensors(file) : undefined;
    return read?.ok && sameLayout(read.layout, plan.layout) ? read.values : undefined;
  }

  async function keep(manifest: Manifest, bytes: Uint8Array): Promise<boolean> {
    models.pin(manifest.digest);
    try {
      await models.put(manifest, bytes);
    } catch (cause) {
      models.unpin(manifest.digest);
      if (cause instanceof TributaryError && cause.code === "model-too-large") return false;
      throw cause;
    }
    pinned.push(manifest.digest);
    current = manifest;
    return true;
  }

  return {
    async make(state) {
      if (state === undefined) return { ok: true, manifest: plan.base };
      const name = siteRoundId(plan.round, state.number);
      const base = await readBase();
      if (base === undefined) {
        return refuse("unknown-model", `${plan.base.model} is not here as a whole`);
      }
      if (base.length !== state.work.delta.length) {
        return refuse("wrong-shape", `${plan.base.model} is not of the plan's layout`);
      }
      const bytes = encodeSafetensors(plan.layout, siteModel(base, state.work.delta));
      // A site model can equal the base to the byte; then it is served as the same chunks.
      const manifest = makeManifest(name, bytes, sha256, plan.base.chunkBytes);
      // Asked for again, after a restart or a site round in vain, it is written anew: a disk can rot.
      const before = models.made().find(({ model }) => model === name);
      if (before !== undefined) await models.drop(before.digest);
      return (await keep(manifest, bytes))
        ? { ok: true, manifest }
        : refuse("storage-full", `${name} does not fit modelCacheBytes`);
    },
    async prune() {
      unpinAllBut(current === undefined ? 0 : 1);
      await dropAllBut(current?.digest);
    },
    dropMade,
    async close() {
      releaseFiles(models, plan);
      await dropMade();
    },
  };
}
