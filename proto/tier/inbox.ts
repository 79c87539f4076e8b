import { decodePartial } from "../algebra/frame.js";
import { roundsOf, type Partial as Sum } from "../algebra/partial.js";
import type { Clock } from "../host/clock.js";
import { createHasher, type Hasher } from "../host/digest.js";
import type { Disk } from "../host/disk.js";
import { type Code, isRetryable } from "../wire/codes.js";
import { TributaryError } from "../wire/errors.js";
import { cloudRound, splitNumberedId } from "../wire/ids.js";
import { limits as wireLimits } from "../wire/limits.js";
import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import { identityText, type PartialIdentity } from "./identity.js";
import { limits } from "./limits.js";
import { createSpool, type Spool } from "./spool.js";

/** What a gateway announces before it sends a Partial. */
export type Announcement = {
  readonly identity: PartialIdentity;
  readonly round: string;
  readonly digest: string;
  readonly totalBytes: number;
};

export type PartialReceipt = {
  readonly digest: string;
  /** `kept`: it came late, is durable, and waits for a later model. */
  readonly outcome: "merged" | "kept" | "expired";
  /** Rule of an expired one, else empty. */
  readonly rule: string;
};

/** How an upload stands. A refusal in it is final: the Partial can never be accepted. */
export type UploadState = {
  readonly receivedBytes: number;
  readonly receipt?: PartialReceipt;
  readonly refusal?: Refusal;
};

/** Refused at this level is what can be tried again: `busy`, `digest-mismatch`, `storage-failed`. */
export type InboxAnswer = Verdict<{ readonly state: UploadState }>;

/** What was decided about a Partial of this identity before, with the digest it had. */
export type Settled = { readonly digest: string; readonly state: UploadState };

/** The rounds that Partials belong to. */
export type Destination = {
  settled(identity: PartialIdentity): Promise<Settled | undefined>;
  knowsRound(round: string): Promise<boolean>;
  /** Whether there is room for so many bytes more; without it there is. */
  hasRoom?(bytes: number): boolean;
  /** Takes a whole Partial. When it resolves with a receipt, the Partial is durable. */
  deliver(
    announcement: Announcement,
    partial: Sum,
    bytes: Uint8Array,
  ): Promise<Verdict<{ readonly receipt: PartialReceipt }>>;
  /** Keeps a final refusal, so that the same identity gets the same answer again. */
  recordRefusal(announcement: Announcement, refusal: Refusal): Promise<void>;
};

/** The one sender that may write to an upload; a newer sender takes over. */
export type Sender = {
  /** Appends bytes at `offset`. The last ones settle the upload: the answer has its receipt. */
  write(offset: number, data: Uint8Array): Promise<InboxAnswer>;
};

export type Inbox = {
  /** Announces a Partial, or asks how much of it has arrived. Safe to repeat. */
  open(announcement: Announcement): Promise<InboxAnswer>;
  sender(identity: PartialIdentity): Sender | undefined;
  /** Bytes and number of the uploads that are held. */
  load(): { readonly uploads: number; readonly bytes: number };
  close(): Promise<void>;
};

type Upload = {
  readonly announcement: Announcement;
  readonly spool: Spool;
  hasher: Hasher;
  /** Set once every byte is there. */
  digest?: string;
  received: number;
  lastMs: number;
  writer: number;
  /** Writes of one upload run one after the other. */
  tail: Promise<unknown>;
};

export function createInbox(disk: Disk, clock: Clock, destination: Destination): Inbox {
  const uploads = new Map<string, Upload>();
  const opening = new Set<string>();
  let writers = 0;

  const heldBytes = () =>
    [...uploads.values()].reduce((sum, { announcement }) => sum + announcement.totalBytes, 0);
  const drop = async (upload: Upload) => {
    uploads.delete(identityText(upload.announcement.identity));
    await upload.spool.discard();
  };
  const makeRoom = async (bytes: number): Promise<boolean> => {
    const fits = () =>
      uploads.size + opening.size < limits.uploads && heldBytes() + bytes <= limits.uploadBytes;
    for (const upload of [...uploads.values()].sort((a, b) => a.lastMs - b.lastMs)) {
      if (fits()) break;
      if (clock.monotonicMs() - upload.lastMs < limits.uploadIdleMs) break;
      await drop(upload);
    }
    return fits();
  };
  const settle = (upload: Upload) => settleUpload(upload, destination, drop);

  const open = async (announcement: Announcement): Promise<InboxAnswer> => {
    const key = identityText(announcement.identity);
    const known = await destination.settled(announcement.identity);
    if (known !== undefined) return answerAgain(announcement, known);
    const present = uploads.get(key);
    if (present !== undefined) {
      if (!sameAnnouncement(present.announcement, announcement)) return conflict(key);
      return inTurn(present, async () => {
        // Another stream may have settled it, or room was made, while this one waited.
        if (uploads.get(key) !== present) return open(announcement);
        if (present.received < announcement.totalBytes) return received(present.received);
        return settle(present);
      });
    }
    if (announcement.totalBytes < 1)
      return final(refuse("partial-malformed", "a Partial of no bytes"));
    if (announcement.totalBytes > wireLimits.partialBytes)
      return final(refuse("too-large", `a Partial of ${announcement.totalBytes} bytes`));
    if (!(await destination.knowsRound(announcement.round)))
      return final(refuse("unknown-round", `no round ${announcement.round}`));
    if (destination.hasRoom?.(announcement.totalBytes) === false)
      return refuse("storage-full", "there is no room for it now; hold it");
    if (opening.has(key) || !(await makeRoom(announcement.totalBytes)))
      return refuse("busy", "too many Partials are being received");
    opening.add(key);
    return attempt(async () => {
      const spool = await createSpool(disk, key, announcement.totalBytes);
      uploads.set(key, newUpload(announcement, spool, clock.monotonicMs()));
      return received(0);
    }).finally(() => opening.delete(key));
  };

  return {
    open,
    sender(identity) {
      const key = identityText(identity);
      const upload = uploads.get(key);
      if (upload === undefined) return undefined;
      const writer = ++writers;
      upload.writer = writer;
      return {
        write: (offset, data) =>
          inTurn(upload, async () => {
            if (upload.writer !== writer)
              return refuse("id-in-use", "a newer stream sends this Partial");
            if (uploads.get(key) !== upload)
              return refuse("not-granted", "the upload has ended; open it again");
            upload.lastMs = clock.monotonicMs();
            const { totalBytes } = upload.announcement;
            if (offset !== upload.received)
              return refuse("chunk-out-of-order", `bytes from ${upload.received} come next`);
            if (data.length > totalBytes - offset)
              return refuse("bad-offset", `more than the ${totalBytes} bytes announced`);
            return attempt(async () => {
              await upload.spool.append(data);
              upload.hasher.update(data);
              upload.received += data.length;
              return upload.received < totalBytes ? received(upload.received) : settle(upload);
            });
          }),
      };
    },
    load: () => ({ uploads: uploads.size, bytes: heldBytes() }),
    async close() {
      for (const upload of [...uploads.values()]) await inTurn(upload, () => drop(upload));
    },
  };
}

function newUpload(announcement: Announcement, spool: Spool, nowMs: number): Upload {
  return {
    announcement,
    spool,
    hasher: createHasher(),
    received: 0,
    lastMs: nowMs,
    writer: 0,
    tail: Promise.resolve(),
  };
}

function inTurn<T>(upload: Upload, job: () => Promise<T>): Promise<T> {
  const run = upload.tail.then(job);
  upload.tail = run.catch(() => undefined);
  return run;
}

/** Every byte is there: checks them, hands the Partial over, and forgets the upload once decided. */
async function settleUpload(
  upload: Upload,
  destination: Destination,
  drop: (upload: Upload) => Promise<void>,
): Promise<InboxAnswer> {
  const { announcement, spool } = upload;
  upload.digest ??= upload.hasher.digest();
  if (upload.digest !== announcement.digest) {
    delete upload.digest;
    upload.hasher = createHasher();
    upload.received = 0;
    await spool.clear();
    return refuse("digest-mismatch", "the bytes do not have the announced digest; send them again");
  }
  const bytes = await spool.read();
  const decoded = decodePartial(bytes);
  const verdict = decoded.ok ? checkRound(announcement, decoded.partial) : decoded;
  const delivered = verdict.ok
    ? await attempt(() => destination.deliver(announcement, verdict.partial, bytes))
    : verdict;
  if (delivered.ok) {
    await drop(upload);
    return done(announcement.totalBytes, delivered.receipt);
  }
  if (isRetryable(delivered.code)) return delivered;
  const kept = await attempt(async () => {
    await destination.recordRefusal(announcement, delivered);
    return { ok: true };
  });
  if (!kept.ok) return kept;
  await drop(upload);
  return final(delivered);
}

/** The announced round must be the newest of the cloud's that contributed, and all of one session. */
function checkRound({ round }: Announcement, partial: Sum): Verdict<{ readonly partial: Sum }> {
  const rounds = roundsOf(partial);
  if (rounds.length === 0) return refuse("partial-malformed", "a Partial without contributors");
  const newest = cloudRound(rounds.at(-1) ?? "");
  if (newest !== round)
    return refuse("base-mismatch", `announced for ${round}, made for ${newest}`);
  const session = splitNumberedId(round)?.session;
  return rounds.every((other) => splitNumberedId(other)?.session === session)
    ? { ok: true, partial }
    : refuse("base-mismatch", "rounds of several sessions");
}

/** A failure of the storage behind the inbox is not the sender's: it keeps the Partial and waits. */
async function attempt<T>(job: () => Promise<Verdict<T>>): Promise<Verdict<T>> {
  try {
    return await job();
  } catch (error) {
    if (!(error instanceof TributaryError)) throw error;
    const code: Code = error.code === "disk-full" ? "storage-full" : "storage-failed";
    return refuse(code, error.message.slice(0, wireLimits.messageChars));
  }
}

function received(receivedBytes: number): InboxAnswer {
  return { ok: true, state: { receivedBytes } };
}

function done(receivedBytes: number, receipt: PartialReceipt): InboxAnswer {
  return { ok: true, state: { receivedBytes, receipt } };
}

function final(refusal: Refusal): InboxAnswer {
  return { ok: true, state: { receivedBytes: 0, refusal } };
}

function conflict(key: string): InboxAnswer {
  return final(refuse("partial-conflict", `${key} was announced with another digest`));
}

function answerAgain(announcement: Announcement, known: Settled): InboxAnswer {
  return known.digest === announcement.digest
    ? { ok: true, state: known.state }
    : conflict(identityText(announcement.identity));
}

function sameAnnouncement(a: Announcement, b: Announcement): boolean {
  return a.digest === b.digest && a.totalBytes === b.totalBytes && a.round === b.round;
}
