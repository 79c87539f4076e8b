import type { KeyObject } from "node:crypto";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { Audit } from "./audit.js";
import type { DeviceEvent } from "./events.js";
import type { Fetcher } from "./fetch.js";
import { limits } from "./limits.js";
import type { Send } from "./link.js";
import type { Effect, Input } from "./round.js";
import type { Slot } from "./slot.js";
import type { TaskRunner } from "./task.js";
import { signedBegin, type Update } from "./update.js";
import type { ChunkSender } from "./upload.js";

export type PerformerParts = {
  readonly device: string;
  /** The key that the device is enrolled with, once it is; its updates are signed with it. */
  readonly key: () => KeyObject | undefined;
  readonly fetcher: Fetcher;
  readonly runner: TaskRunner;
  readonly slot: Slot;
  readonly audit: Audit;
  readonly sender: ChunkSender;
  readonly send: Send;
  readonly clock: Clock;
  readonly random: Random;
  readonly report: (event: DeviceEvent) => void;
  readonly dispatch: (input: Input) => void;
};

export type Performer = {
  perform(effect: Effect): void;
  /** Cancels the timers. */
  close(): void;
};

type Of<Kind extends Effect["do"]> = Extract<Effect, { do: Kind }>;
type Handlers = { readonly [Kind in Effect["do"]]: (effect: Of<Kind>) => void };

/** Turns the machine's effects into deeds; what comes of them goes back through `dispatch`. */
export function createPerformer(parts: PerformerParts): Performer {
  const { device, key, fetcher, runner, slot, sender, send, clock, random, report, dispatch } =
    parts;
  const wait = createSoleTimer(clock, () => dispatch({ on: "waited" }));
  const deadline = createSoleTimer(clock, () => dispatch({ on: "deadline" }));
  const storageFailed = (what: string, cause: unknown): string => {
    const message = cause instanceof Error ? cause.message : String(cause);
    report({ level: "error", name: "storage-failed", what, message });
    return message;
  };

  const handlers: Handlers = {
    fetch: ({ manifest, layout, good, wanted }) => fetcher.start(manifest, layout, good, wanted),
    "abort-fetch": () => fetcher.abort(),
    train: ({ task }) => runner.start(task),
    "abort-training": ({ reason }) => runner.abort(reason),
    keep({ update }) {
      const { round } = update.begin;
      keep(parts, update).then(
        () => dispatch({ on: "kept", round }),
        (cause: unknown) =>
          dispatch({ on: "keep-failed", round, message: storageFailed("update", cause) }),
      );
    },
    drop(effect) {
      record(parts.audit, effect)
        .catch((cause: unknown) => storageFailed("audit", cause))
        .then(() => slot.clear(effect.update))
        .catch((cause: unknown) => storageFailed("slot", cause));
    },
    // Signed anew each time: the key may be another one by now than when the update was made.
    "send-begin": ({ update }) => send("begin", signedBegin(update.begin, device, key())),
    "send-chunks": ({ update, offset, windowBytes }) => sender.start(update, offset, windowBytes),
    "stop-chunks": () => sender.stop(),
    decline: ({ round, code, message }) =>
      send("decline", { round, code, message: message.slice(0, wire.messageChars) }),
    wait({ why, attempt, atLeastMs }) {
      const capMs = why === "doubt" ? limits.doubtJitterMs : limits.backoffCapMs;
      const jitter = { baseMs: limits.backoffBaseMs, capMs };
      wait.set(atLeastMs + jitteredBackoff(random, attempt, jitter));
    },
    "stop-waiting": () => wait.clear(),
    "set-deadline": ({ atMs }) => deadline.set(Math.max(0, atMs - clock.monotonicMs())),
    "clear-deadline": () => deadline.clear(),
    report: ({ event }) => report(event),
  };

  return {
    perform(effect) {
      // The table has the handler of each kind, which the type system cannot follow here.
      const handle = handlers[effect.do] as (effect: Effect) => void;
      handle(effect);
    },
    close() {
      wait.clear();
      deadline.clear();
    },
  };
}

async function keep({ slot, audit }: PerformerParts, update: Update): Promise<void> {
  // An evaluation can be made again from the model; only trained values are worth the slot.
  if (update.task === "train") await slot.write(update);
  await audit.sent(update);
}

/** The audit's line is written before the slot forgets: a line too many beats one too few. */
function record(audit: Audit, { update, because }: Of<"drop">): Promise<void> {
  const { round, digest } = update.begin;
  if (because === "receipt") return audit.receipt(round, digest);
  return audit.refused(round, because === "closed" ? "round-closed" : because);
}

/** At most one timer is set; setting it again takes the place of the old one. */
function createSoleTimer(clock: Clock, fire: () => void) {
  let timer: Timer | undefined;
  return {
    set(delayMs: number): void {
      timer?.cancel();
      timer = clock.setTimer(delayMs, fire);
    },
    clear(): void {
      timer?.cancel();
    },
  };
}
