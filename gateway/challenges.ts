import type {
  AnswerChallengeRequest,
  Challenge,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { createKeyring } from "@tributary/proto/identity/keyring.js";
import { verifyWarrant } from "@tributary/proto/identity/warrant.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { idSchema, roundIdSchema } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { GatewayEvents } from "./events.js";
import type { GatewayIdentity } from "./identity.js";
import { limits } from "./limits.js";
import type { SignedUpdates } from "./signed-updates.js";
import type { Upstream } from "./upstream.js";

/** Answers the cloud's challenges with the signed updates that are kept here. */
export type Challenges = {
  /** Safe to repeat: it is sent again until all of it has come, and one at a time is answered. */
  asked(challenge: Challenge): void;
  close(): void;
};

export type ChallengesOptions = {
  /** Undefined where no device signs. */
  readonly signed: Pick<SignedUpdates, "read"> | undefined;
  readonly upstream: Pick<Upstream, "answerChallenge">;
  /** Whose word a challenge must have; undefined where no device signs. */
  readonly identity: Pick<GatewayIdentity, "fleet" | "jwks"> | undefined;
  /** Hands it on to all gateways below. */
  readonly passOn: (challenge: Challenge) => void;
  readonly events: GatewayEvents;
};

const nothing = Buffer.alloc(0);

export function createChallenges(options: ChallengesOptions): Challenges {
  const { signed, upstream, identity, passOn, events } = options;
  /** Asked and not answered yet, by id. */
  const waiting = new Map<string, Challenge>();
  let answering = false;
  let closed = false;

  async function* messagesOf({ id, updates }: Challenge): AsyncGenerator<AnswerChallengeRequest> {
    let isFirst = true;
    for (const { index, round, device } of updates) {
      if (!roundIdSchema.safeParse(round).success || !idSchema.safeParse(device).success) continue;
      const kept = await signed?.read(round, device);
      if (kept === undefined) continue;
      const begin = Buffer.from(encodeCbor(kept.begin));
      yield { id: isFirst ? id : "", update: { index, begin }, data: nothing };
      isFirst = false;
      const { payload } = kept;
      for (let at = 0; at < payload.length; at += wire.tierChunkBytes) {
        const data = Buffer.from(payload.subarray(at, at + wire.tierChunkBytes));
        yield { id: "", update: undefined, data };
      }
    }
  }

  /** Who is between the cloud and this gateway must not learn single devices' updates by asking. */
  async function isOfFleet(challenge: Challenge): Promise<boolean> {
    if (identity === undefined) return false;
    const by = { fleet: identity.fleet, keyring: createKeyring(identity.jwks) };
    const verdict = await verifyWarrant(challenge.warrant, challenge, by);
    if (verdict.ok) return true;
    const { code, message } = verdict;
    events({ level: "warn", name: "challenge-refused", challenge: challenge.id, code, message });
    return false;
  }

  async function answer(challenge: Challenge): Promise<void> {
    if (!(await isOfFleet(challenge))) return;
    const messages = messagesOf(challenge);
    const first = await messages.next();
    if (first.done === true) return;
    const all = async function* () {
      yield first.value;
      yield* messages;
    };
    const updates = (await upstream.answerChallenge?.(all())) ?? 0;
    events({ level: "info", name: "challenge-answered", challenge: challenge.id, updates });
  }

  async function answerAll(): Promise<void> {
    for (const [id, challenge] of waiting) {
      await answer(challenge).catch((cause: unknown) => {
        // The cloud asks again.
        const message = cause instanceof Error ? cause.message : String(cause);
        events({ level: "warn", name: "challenge-unanswered", challenge: id, message });
      });
      waiting.delete(id);
      if (closed) return;
    }
  }

  return {
    asked(challenge) {
      if (closed) return;
      passOn(challenge);
      const isFull = waiting.size >= limits.challenges && !waiting.has(challenge.id);
      if (signed === undefined || isFull) return;
      waiting.set(challenge.id, challenge);
      if (answering) return;
      answering = true;
      void answerAll().finally(() => {
        answering = false;
      });
    },
    close() {
      closed = true;
    },
  };
}
