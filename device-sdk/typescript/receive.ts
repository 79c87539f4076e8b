import { checkHeadroom, encodingFor } from "@tributary/proto/algebra/grid.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import type { Down } from "@tributary/proto/wire/device-link.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { CarriedList } from "./denylist.js";
import type { DeviceEvent } from "./events.js";
import type { Fetcher } from "./fetch.js";
import type { Renewal } from "./identity-renewal.js";
import type { Message, Send } from "./link.js";
import type { Input } from "./round.js";

export type ReceiverParts = {
  readonly fetcher: Fetcher;
  readonly clock: Clock;
  readonly send: Send;
  readonly report: (event: DeviceEvent) => void;
  readonly dispatch: (input: Input) => void;
  /** Takes parts of denylists, where the device goes by any. */
  readonly carried?: Pick<CarriedList, "received"> | undefined;
  /** Takes the answers to its requests, where the device is enrolled. */
  readonly renewal?: Pick<Renewal, "enrolled" | "refused"> | undefined;
};

type Of<Kind extends Message["kind"]> = Extract<Message, { kind: Kind }>;
type Handlers = { readonly [Kind in Message["kind"]]: (message: Of<Kind>) => void };

/** Brings the gateway's messages to whom they are for. */
export function createReceiver(parts: ReceiverParts): (message: Message) => void {
  const { fetcher, report, dispatch } = parts;
  const handlers: Handlers = {
    offer: ({ header }) => receiveOffer(parts, header),
    part: ({ header, payload }) => fetcher.part(header, payload),
    grant: ({ header }) => dispatch({ on: "grant", ...header }),
    receipt: ({ header }) => dispatch({ on: "receipt", ...header }),
    closed: ({ header }) => dispatch({ on: "closed", round: header.round }),
    refusal({ header }) {
      const { about, code, message } = header;
      if (about === "fetch") fetcher.refused(header);
      else if (about === "renew" && parts.renewal) parts.renewal.refused(header);
      else if (about === "begin" || about === "chunk") dispatch({ on: "refusal", ...header });
      else report({ level: "warn", name: "message-refused", kind: about, code, message });
    },
    published: ({ header: { manifest, layout } }) =>
      dispatch({ on: "published", wanted: { manifest, layout } }),
    denylist: ({ header, payload }) => parts.carried?.received(header, payload),
    enrolled: ({ header }) => parts.renewal?.enrolled(header),
    // The link reads it: it is what makes the link up.
    welcome: () => {},
  };
  return (message) => {
    // The table has the handler of each kind, which the type system cannot follow here.
    const handle = handlers[message.kind] as (message: Message) => void;
    handle(message);
  };
}

function receiveOffer(parts: ReceiverParts, { plan, gateway, remainingMs }: Down<"offer">): void {
  const { clock, send, report, dispatch } = parts;
  const checked = checkPlan(plan);
  if (checked.ok) {
    const deadlineMs = clock.monotonicMs() + remainingMs;
    dispatch({ on: "offer", task: { plan, gateway, deadlineMs } });
    return;
  }
  const { round } = plan;
  const { code, message } = checked;
  report({ level: "info", name: "declined", round, code, message });
  send("decline", { round, code, message });
}

/** Whether this device can answer the plan exactly; else it declines with the code. */
function checkPlan(plan: Plan): Verdict<object, "plan-headroom" | "plan-invalid"> {
  const headroom = checkHeadroom(plan.grid, plan.nMax, BigInt(plan.totalMax));
  if (!headroom.ok) return headroom;
  const encoding = encodingFor(plan.grid);
  return encoding === plan.encoding
    ? { ok: true }
    : refuse("plan-invalid", `encoding ${plan.encoding} where the grid has ${encoding}`);
}
