import type { AnswerChallengeRequest } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { type Begin, beginSchema } from "@tributary/proto/wire/device-link.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { AnsweredUpdate } from "./challenge-check.js";

/** What an answer is read against, and where it goes. */
export type Answered = {
  /** The bytes that an update has to have; undefined when nobody waits for it (any more). */
  expects(id: string, index: number): Promise<number | undefined>;
  take(id: string, index: number, update: AnsweredUpdate): Promise<void>;
};

type Receiving = {
  readonly index: number;
  readonly begin: Begin;
  readonly payload: Uint8Array;
  received: number;
};

/** Takes the updates of one answer, one after the other. What nobody waits for is passed over. */
export async function receiveAnswers(
  messages: AsyncIterable<AnswerChallengeRequest>,
  { expects, take }: Answered,
): Promise<Verdict<{ readonly taken: number }>> {
  let id = "";
  let taken = 0;
  let current: Receiving | undefined;
  const whole = async () => {
    if (current === undefined || current.received < current.payload.length) return;
    const { index, begin, payload } = current;
    current = undefined;
    await take(id, index, { begin, payload });
    taken++;
  };
  for await (const message of messages) {
    if (id === "") id = message.id;
    else if (message.id !== "" && message.id !== id)
      return refuse("malformed", "id belongs on the first message only");
    const { update, data } = message;
    if (update !== undefined) {
      const { index } = update;
      current = undefined;
      const bytes = await expects(id, index);
      if (bytes === undefined) continue;
      const begin = readBegin(update.begin);
      if (begin === undefined) return refuse("malformed", "an update without a header");
      // One of another length is judged by its header alone.
      const length = begin.bytes === bytes ? bytes : 0;
      current = { index, begin, payload: new Uint8Array(length), received: 0 };
    }
    if (current !== undefined && data.length > 0) {
      const room = current.payload.length - current.received;
      if (data.length > room) return refuse("malformed", "bytes past the update's end");
      current.payload.set(data, current.received);
      current.received += data.length;
    }
    await whole();
  }
  return { ok: true, taken };
}

function readBegin(bytes: Uint8Array): Begin | undefined {
  if (bytes.length > wire.upHeaderBytes) return undefined;
  const cbor = decodeCbor(bytes, { depth: wire.headerDepth, items: wire.headerItems });
  const begin = beginSchema.safeParse(cbor.ok ? cbor.value : undefined);
  return begin.success ? begin.data : undefined;
}
