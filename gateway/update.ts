import { arch } from "node:process";
import {
  type Bundle,
  type BundleArch,
  type BundleCode,
  compareVersions,
} from "@tributary/proto/identity/bundle.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { type BundleTrust, bundlePlaces, unpackBundle } from "./update-bundle.js";
import type { Installed, SlotName, Slots } from "./update-slots.js";

export type UpdateOptions = {
  readonly slots: Slots;
  readonly trust: BundleTrust;
  /** Whose machine it is; undefined where that is not known yet. */
  readonly gateway: { readonly site: string; readonly gateway: string } | undefined;
  /** The machine's; undefined for one that no bundle is made for, `any` for an image of another. */
  readonly arch: BundleArch | "any" | undefined;
  /** Where files go that set a machine up; left out, they are checked only. */
  readonly setupFolder?: string;
  /** Takes a version older than the one that runs, if it is not older than the minimum. */
  readonly allowOlder?: boolean;
};

export type UpdateOutcome = {
  /** False where this very bundle runs, or waits for the next start, already. */
  readonly changed: boolean;
  readonly installed: Installed;
};

export function machineArch(): BundleArch | undefined {
  if (arch === "x64" || arch === "arm64") return arch;
  return arch === "arm" ? "armv7" : undefined;
}

/**
 * Installs a bundle, from a file or a folder, into the slot that does not run; it runs from the next start
 * on. Refusals: `bundle-malformed`, `bundle-signature`, `bundle-digest`, `bundle-other` (made for
 * another gateway or machine), `bundle-older`, `update-busy` (retryable). After a refusal everything runs on as before.
 */
export async function installBundle(
  source: string,
  options: UpdateOptions,
): Promise<Verdict<UpdateOutcome, BundleCode>> {
  const { slots, trust } = options;
  const running = await slots.current();
  const trial = await slots.trial();
  if (trial !== undefined && trial.previous !== running?.slot)
    return refuse("update-busy", "the last update is still on trial; try again when it is kept");
  const minimum = await slots.minimumVersion();
  let filling: { readonly slot: SlotName; readonly folder: string } | undefined;
  const unpacked = await unpackBundle(source, {
    trust,
    async accept(bundle, digest) {
      const refused = judge(bundle, options, running?.installed.version, minimum);
      if (refused !== undefined) return refused;
      // The one that runs is checked only: nothing of it is to be written.
      const same = running?.installed.digest === digest;
      if (!same) filling = await slots.clear();
      return { ok: true, placeOf: bundlePlaces(filling?.folder, options.setupFolder) };
    },
  });
  if (!unpacked.ok) {
    if (filling !== undefined) await slots.clear();
    return unpacked;
  }
  if (filling === undefined && running !== undefined)
    return { ok: true, changed: false, installed: running.installed };
  const { bundle, digest } = unpacked;
  const { version, node, arch: of } = bundle;
  // It never goes back, whatever a newer release says.
  const higher = minimum === undefined || compareVersions(bundle.minimumVersion, minimum) > 0;
  const minimumVersion = higher ? bundle.minimumVersion : minimum;
  const installed: Installed = { version, node, arch: of, digest, minimumVersion };
  if (filling !== undefined) await slots.promote(filling.slot, installed);
  return { ok: true, changed: true, installed };
}

function judge(
  bundle: Bundle,
  { gateway, arch: machine, allowOlder = false }: UpdateOptions,
  running: string | undefined,
  minimum: string | undefined,
): Refusal<BundleCode> | undefined {
  const { version, for: whose } = bundle;
  if (machine !== "any" && bundle.arch !== machine)
    return refuse(
      "bundle-other",
      `the bundle is for ${bundle.arch}, this machine is ${machine ?? "of no kind that bundles are made for"}`,
    );
  if (
    whose !== null &&
    gateway !== undefined &&
    (whose.gateway !== gateway.gateway || whose.site !== gateway.site)
  )
    return refuse(
      "bundle-other",
      `the bundle is for the gateway ${whose.gateway} of ${whose.site}, not for ${gateway.gateway} of ${gateway.site}`,
    );
  if (minimum !== undefined && compareVersions(version, minimum) < 0)
    return refuse(
      "bundle-older",
      `${version} is older than ${minimum}, the oldest that may be installed here`,
    );
  if (running !== undefined && !allowOlder && compareVersions(version, running) < 0)
    return refuse(
      "bundle-older",
      `${version} is older than ${running}, which runs; allow it with --allow-older`,
    );
  return undefined;
}
