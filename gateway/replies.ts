import { type Code, isRetryable } from "@tributary/proto/wire/codes.js";
import type { Down } from "@tributary/proto/wire/device-link.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { Refusal } from "@tributary/proto/wire/verdict.js";
import type { DeviceLink } from "./broker.js";
import type { GatewayEvents } from "./events.js";

type About = Down<"refusal">["about"];

/** What a refusal may carry beside its code. */
export type RefusalDetail = {
  readonly round?: string;
  readonly retryAfterMs?: number;
  readonly expectedOffset?: number;
};

/** Counts since start, for heartbeats. Bounded by the closed set of codes. */
export type ReplyCounts = {
  readonly refusals: ReadonlyMap<Code, number>;
  readonly duplicates: number;
};

/** Everything the gateway answers to a device's messages. */
export type Replies = {
  grant(device: string, header: Down<"grant">): void;
  receipt(device: string, round: string, digest: string): void;
  /** A receipt for an update that was receipted before: counted as a duplicate. */
  repeatReceipt(device: string, round: string, digest: string): void;
  refuse(device: string, about: About, refusal: Refusal, detail?: RefusalDetail): void;
  readonly counts: ReplyCounts;
};

/** @param retryAfterMs told with every retryable refusal that names no other time */
export function createReplies(
  link: Pick<DeviceLink, "send">,
  events: GatewayEvents,
  retryAfterMs: number,
): Replies {
  const refusals = new Map<Code, number>();
  let duplicates = 0;
  const sendReceipt = (device: string, round: string, digest: string) =>
    link.send(device, "receipt", encodeEnvelope({ round, digest } satisfies Down<"receipt">));

  return {
    grant: (device, header) => link.send(device, "grant", encodeEnvelope(header)),
    receipt: sendReceipt,
    repeatReceipt(device, round, digest) {
      duplicates++;
      events({ level: "debug", name: "update-repeated", round, device });
      sendReceipt(device, round, digest);
    },
    refuse(device, about, { code, message }, detail = {}) {
      refusals.set(code, (refusals.get(code) ?? 0) + 1);
      events({ level: "warn", name: "message-refused", device, about, code, message });
      const header: Down<"refusal"> = {
        about,
        code,
        message: message.slice(0, wire.messageChars),
        ...(isRetryable(code) ? { retryAfterMs } : {}),
        ...detail,
      };
      link.send(device, "refusal", encodeEnvelope(header));
    },
    get counts() {
      return { refusals, duplicates };
    },
  };
}
