import type {
  AnswerChallengeRequest,
  EnrolRequest,
  EnrolResponse,
  FetchModelRequest,
  FetchModelResponse,
  OpenPartialRequest,
  PartialState,
  SendPartialRequest,
} from "../gen/tributary/v1/reducer.js";
import type { Clock } from "../host/clock.js";
import type { ReadFile } from "../host/disk.js";
import type { Grant } from "../identity/grant.js";
import { identityLimits } from "../identity/limits.js";
import { digestSchema, numberedIdSchema } from "../wire/ids.js";
import { limits as wireLimits } from "../wire/limits.js";
import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import type { Attachments, ControlStream, Members } from "./attach.js";
import type { LinkEvents } from "./events.js";
import { type PartialIdentity, readIdentity } from "./identity.js";
import type { Announcement, Inbox, InboxAnswer, UploadState } from "./inbox.js";
import { limits } from "./limits.js";
import type { Peer } from "./peer.js";

/**
 * Takes a signing request to the fleet's authority: with a claim for a first certificate, without one
 * for the next.
 */
export type EnrolPort = (
  request: string,
  claim: string | undefined,
) => Promise<Verdict<{ readonly grant: Grant }>>;

/** Takes signed updates that a challenge asked for; how many. Messages that it leaves are not read. */
export type AnswerPort = (
  messages: AsyncIterable<AnswerChallengeRequest>,
) => Promise<Verdict<{ readonly taken: number }>>;

export type ServiceWorld = {
  readonly clock: Clock;
  readonly attachments: Attachments;
  readonly members: Members;
  readonly inbox: Inbox;
  /** The file of a model; undefined when this side has none of that id and digest (now). */
  openModel(model: string, digest: string): Promise<ReadFile | undefined>;
  /** Undefined where there is no way to an authority. */
  readonly enrol?: EnrolPort | undefined;
  /** Undefined where nobody asks for any. */
  readonly answerChallenge?: AnswerPort | undefined;
  readonly events: LinkEvents;
};

export type PartialAnswer = Verdict<{ readonly state: PartialState }>;

/** Parts of a model in order; they must be read. Their end, or leaving off, closes the file. */
export type ModelParts = AsyncGenerator<FetchModelResponse, void, undefined>;

/**
 * ReducerService without a transport. A refusal that can be tried again, and a malformed request,
 * is the verdict of the call; a final answer about a Partial is in its state. Failures reject. Who
 * shows a certificate speaks for itself alone: `certificate-subject` for another gateway's Partial.
 */
export type Service = {
  attach(stream: ControlStream): void;
  /** The parts are read no faster than they are asked for; nobody else bounds how long that takes. */
  fetchModel(request: FetchModelRequest): Promise<Verdict<{ readonly parts: ModelParts }>>;
  openPartial(request: OpenPartialRequest, peer?: Peer): Promise<PartialAnswer>;
  /** Takes messages one at a time, so that the link's own flow control holds the sender back. */
  sendPartial(messages: AsyncIterable<SendPartialRequest>, peer?: Peer): Promise<PartialAnswer>;
  enrol(request: EnrolRequest): Promise<EnrolResponse>;
  answerChallenge: AnswerPort;
};

export function createService(world: ServiceWorld): Service {
  const { attachments, members, inbox, events } = world;
  let reads = 0;
  let enrolments = 0;
  let answers = 0;
  return {
    attach: (stream) => attachments.accept(stream, members),
    async fetchModel(request) {
      if (reads >= limits.modelReads) return refuse("busy", `${reads} models are being read`);
      reads++;
      const opened = await openAt(world, request).catch((error: unknown) => {
        reads--;
        throw error;
      });
      if (!opened.ok) {
        reads--;
        return opened;
      }
      return { ok: true, parts: partsOf(request, opened.file, () => reads--) };
    },
    async openPartial(request, peer) {
      const read = readAnnouncement(request);
      if (!read.ok) return read;
      const foreign = foreignTo(peer, read.announcement.identity);
      if (foreign !== undefined) return foreign;
      const { announcement } = read;
      const answer = await inbox.open(announcement);
      if (!answer.ok) return answer;
      const { round, identity } = announcement;
      // It was taken before, and its receipt did not reach the gateway.
      if (answer.state.receipt !== undefined)
        events({ level: "info", name: "partial-repeated", round, gateway: identity.gateway });
      return { ok: true, state: wireState(answer.state) };
    },
    async sendPartial(messages, peer) {
      const answer = await withinTime(world.clock, receivePartial(inbox, messages, peer));
      return answer.ok ? { ok: true, state: wireState(answer.state) } : answer;
    },
    async answerChallenge(messages) {
      if (world.answerChallenge === undefined) return refuse("malformed", "nobody here asked");
      if (answers >= limits.challengeAnswers)
        return refuse("busy", `${answers} answers are being received`);
      answers++;
      const taking = world.answerChallenge(messages).finally(() => answers--);
      return withinTime(world.clock, taking);
    },
    async enrol({ claim, request }) {
      const refused = (refusal: Refusal) => ({ grant: Buffer.alloc(0), refusal });
      if (world.enrol === undefined)
        return refused(refuse("uplink-away", "nobody here knows the fleet's authority"));
      if (enrolments >= limits.enrolments)
        return refused(refuse("busy", `${enrolments} enrolments are being passed on`));
      if (request.length > identityLimits.requestChars || claim.length > identityLimits.claimChars)
        return refused(refuse("request-malformed", "the request, or its claim, is too long"));
      enrolments++;
      try {
        const answer = await world.enrol(request, claim === "" ? undefined : claim);
        return answer.ok
          ? { grant: Buffer.from(JSON.stringify(answer.grant)), refusal: undefined }
          : refused(answer);
      } finally {
        enrolments--;
      }
    },
  };
}

async function openAt(
  { openModel }: ServiceWorld,
  { model, digest, offset }: FetchModelRequest,
): Promise<Verdict<{ readonly file: ReadFile }>> {
  if (!numberedIdSchema.safeParse(model).success || !digestSchema.safeParse(digest).success)
    return refuse("malformed", "model must be a model id and digest a SHA-256");
  const file = await openModel(model, digest);
  if (file === undefined) return refuse("unknown-model", `no model ${model} with that digest`);
  if (offset <= BigInt(file.size)) return { ok: true, file };
  await file.close();
  return refuse("bad-offset", `${model} has ${file.size} bytes, fewer than ${offset}`);
}

async function* partsOf(request: FetchModelRequest, file: ReadFile, done: () => void): ModelParts {
  try {
    for (let at = Number(request.offset); at < file.size; ) {
      const bytes = await file.read(at, wireLimits.tierChunkBytes);
      if (bytes.length === 0)
        throw new Error(`${request.model} ends at byte ${at} of ${file.size}`);
      const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      yield { offset: BigInt(at), data };
      at += bytes.length;
    }
  } finally {
    done();
    await file.close();
  }
}

async function receivePartial(
  inbox: Inbox,
  messages: AsyncIterable<SendPartialRequest>,
  peer: Peer | undefined,
): Promise<InboxAnswer> {
  let sender: ReturnType<Inbox["sender"]>;
  let answer: InboxAnswer = refuse("malformed", "a stream without a message");
  for await (const { id, offset, data } of messages) {
    if (sender === undefined) {
      const identity = readIdentity(id);
      if (identity === undefined)
        return refuse("malformed", "the first message must name a Partial");
      const foreign = foreignTo(peer, identity);
      if (foreign !== undefined) return foreign;
      sender = inbox.sender(identity);
      if (sender === undefined) return refuse("not-granted", "open the Partial first");
    } else if (id !== undefined) return refuse("malformed", "id belongs on the first message only");
    if (offset > BigInt(Number.MAX_SAFE_INTEGER)) return refuse("malformed", "offset is too large");
    answer = await sender.write(Number(offset), data);
    if (!answer.ok) return answer;
    if (answer.state.receipt !== undefined || answer.state.refusal !== undefined) return answer;
  }
  return answer;
}

/** Nobody brings what another gateway sealed: at each tier a Partial travels under its sender's name. */
function foreignTo(
  peer: Peer | undefined,
  { gateway }: PartialIdentity,
): Refusal<"certificate-subject"> | undefined {
  return peer === undefined || peer.name === gateway
    ? undefined
    : refuse("certificate-subject", `${peer.name} speaks for itself, not for ${gateway}`);
}

/** A sender that neither goes on nor goes away is told to come back; what it sent so far is kept. */
function withinTime<T>(clock: Clock, receiving: Promise<Verdict<T>>): Promise<Verdict<T>> {
  return new Promise((resolve, reject) => {
    const timer = clock.setTimer(limits.sendTimeoutMs, () =>
      resolve(
        refuse("busy", `not sent within ${limits.sendTimeoutMs} ms; open it again and go on`),
      ),
    );
    receiving.then(resolve, reject).finally(() => timer.cancel());
  });
}

function readAnnouncement(
  request: OpenPartialRequest,
): Verdict<{ readonly announcement: Announcement }, "malformed"> {
  const identity = readIdentity(request.id);
  const { round, digest, totalBytes } = request;
  if (identity === undefined)
    return refuse("malformed", "id must be a gateway, an incarnation and a sequence");
  if (!numberedIdSchema.safeParse(round).success)
    return refuse("malformed", "round must be a round id");
  if (!digestSchema.safeParse(digest).success)
    return refuse("malformed", "digest must be a SHA-256");
  if (totalBytes > BigInt(Number.MAX_SAFE_INTEGER))
    return refuse("malformed", "total_bytes is too large");
  return { ok: true, announcement: { identity, round, digest, totalBytes: Number(totalBytes) } };
}

function wireState({ receivedBytes, receipt, refusal }: UploadState): PartialState {
  return {
    receivedBytes: BigInt(receivedBytes),
    receipt,
    refusal: refusal && { code: refusal.code, message: refusal.message },
  };
}
