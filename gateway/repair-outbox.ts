import { decodePartial } from "@tributary/proto/algebra/frame.js";
import { contributionKey, type Partial } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { describe } from "./outbox.js";
import type { FileFindings } from "./repair.js";
import { journalOf } from "./round-world.js";
import { stateFileOf } from "./site-state.js";
import type { RoundRecord, Store } from "./store.js";

type Facts = Pick<FileFindings, "file" | "kind" | "bytes">;

const DIR = "outbox";
const SUFFIX = ".partial";

/**
 * Takes Partials back into the outbox that an index which was damaged does not name any more, each
 * under the identity it had, and unchanged: the upstream may have heard of it. A kill leaves such
 * files, too; those are told by what is in them: it is in another Partial, or still in its round.
 * @param setAside takes what can be neither, and says where it is
 */
export async function adoptPartials(
  disk: Disk,
  store: Store,
  setAside: (facts: Facts, lost: readonly string[]) => Promise<FileFindings>,
): Promise<FileFindings[]> {
  const entries = await store.outbox();
  const known = new Set(entries.map(({ sequence }) => sequence));
  const files = (await disk.list(DIR)).filter((name) => name.endsWith(SUFFIX));
  const taken = new Set<string>();
  const unnamed: { file: string; sequence: number }[] = [];
  for (const name of files) {
    const sequence = Number.parseInt(name, 10);
    const file = `${DIR}/${name}`;
    if (!known.has(sequence)) unnamed.push({ file, sequence });
    else for (const key of keysOf(decodePartial(await disk.readFile(file)))) taken.add(key);
  }
  const found: FileFindings[] = [];
  // The newest first: what was merged is in one that came after it.
  for (const { file, sequence } of unnamed.reverse()) {
    const bytes = await disk.readFile(file);
    const facts = { file, kind: "partial" as const, bytes: bytes.length };
    const decoded = decodePartial(bytes);
    const keys = keysOf(decoded);
    const fresh = keys.filter((key) => !taken.has(key));
    if (decoded.ok && fresh.length === 0) continue;
    if (!decoded.ok || fresh.length < keys.length) {
      found.push(await setAside(facts, fresh));
      continue;
    }
    const { partial } = decoded;
    const open = (await store.openRounds(() => {})).filter(({ round, handed }) => {
      return handed === undefined && describe(partial).rounds.includes(round);
    });
    if (await anyHasFiles(disk, open)) continue;
    await adopt(store, sequence, partial, bytes, open);
    for (const key of keys) taken.add(key);
    const kept = partial.contributors.map((one) => ({
      device: contributionKey(one),
      samples: one.samples,
    }));
    const nothing = { gaps: [], lost: [], unaccounted: [], aside: null };
    found.push({ ...facts, ...nothing, state: "adopted", kept });
  }
  return found;
}

async function adopt(
  store: Store,
  sequence: number,
  partial: Partial,
  bytes: Uint8Array,
  open: readonly RoundRecord[],
): Promise<void> {
  const facts = describe(partial);
  const named = { sequence, digest: sha256(bytes), bytes: bytes.length };
  // Which rules it travels under is lost: as it is opened, it is merged with none.
  const rules = { perSite: true, totalMax: facts.weight, opened: true, sealedAtMs: 0 };
  await store.adoptFormer(sequence, { ...named, ...facts, ...rules });
  // The end of its round was lost with its entry.
  for (const { round } of open) {
    const folded = facts.contributors;
    await store.seal({ round, offered: folded, folded, declined: 0 }, [], undefined);
  }
}

/** Whether what a round has come to is with the round, and its Partial made anew from that. */
async function anyHasFiles(disk: Disk, rounds: readonly RoundRecord[]): Promise<boolean> {
  for (const { round } of rounds) {
    for (const file of [journalOf(round), stateFileOf(round)]) {
      if (await disk.exists(file)) return true;
    }
  }
  return false;
}

function keysOf(decoded: ReturnType<typeof decodePartial>): string[] {
  return decoded.ok ? decoded.partial.contributors.map(contributionKey) : [];
}
