import type { Grant } from "@tributary/proto/identity/grant.js";
import { readRequest } from "@tributary/proto/identity/request.js";
import { isRetryable } from "@tributary/proto/wire/codes.js";
import { type Down, upSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";

/** Asks the authority, wherever it is. `uplink-away` where the way there is cut. */
export type AskAuthority = (
  /** Empty in a renewal. */
  claim: string,
  request: string,
) => Promise<Verdict<{ readonly grant: Grant }>>;

/** One that asks for a certificate, on a connection that is for this, or as the device that it is. */
export type Petitioner = {
  readonly device: string;
  /** Of one that enrols. */
  readonly claim: string | undefined;
  send(kind: "enrolled" | "refusal", bytes: Uint8Array): void;
};

/**
 * Passes devices' requests for certificates on, and the answers back. What can be told without the
 * authority is refused here: a form, a signature, or a name that is not the petitioner's.
 */
export type DeviceEnrol = {
  take(petitioner: Petitioner, asks: "enrol" | "renew", bytes: Uint8Array): void;
};

export type DeviceEnrolOptions = {
  readonly site: string;
  readonly ask: AskAuthority;
  readonly retryAfterMs: number;
  readonly events: GatewayEvents;
};

export function createDeviceEnrol(options: DeviceEnrolOptions): DeviceEnrol {
  const { site, ask, retryAfterMs, events } = options;
  /** What is asked for, and by whom, of requests on their way. */
  const asking = new Set<string>();

  async function judge(
    { device, claim }: Petitioner,
    asks: "enrol" | "renew",
    bytes: Uint8Array,
  ): Promise<Verdict<{ readonly grant: Grant }>> {
    const message = decodeEnvelope(upSchemas[asks], bytes, wire.upHeaderBytes);
    if (!message.ok) return message;
    const { request } = message.header;
    const read = await readRequest(request);
    if (!read.ok) return read;
    const { kind, name, site: place } = read.request.payload;
    if (kind !== "device" || name !== device || place !== site)
      return refuse("request-subject", `the request is not for the device ${device} of ${site}`);
    if ("claim" in read.request.payload !== (asks === "enrol"))
      return refuse("request-malformed", `the request does not ask to ${asks}`);
    return ask(asks === "enrol" ? (claim ?? "") : "", request);
  }

  function refused({ device, send }: Petitioner, about: "enrol" | "renew", refusal: Refusal): void {
    const { code, message } = refusal;
    events({ level: "warn", name: "message-refused", device, about, code, message });
    const header: Down<"refusal"> = {
      ...{ about, code, message: message.slice(0, wire.messageChars) },
      ...(isRetryable(code) ? { retryAfterMs } : {}),
    };
    send("refusal", encodeEnvelope(header));
  }

  function answer(petitioner: Petitioner, asks: "enrol" | "renew", grant: Grant): void {
    const { device } = petitioner;
    const { certificate, serial, notAfterMs, chain, anchors, token, jwks } = grant;
    const header: Down<"enrolled"> = {
      ...{ certificate, serial, notAfterMs, chain, anchors, jwks },
      // The authority gives every device one.
      token: token ?? "",
    };
    const name = asks === "enrol" ? "device-enrolled" : "device-renewed";
    events({ level: "info", name, device, serial });
    petitioner.send("enrolled", encodeEnvelope(header));
  }

  return {
    take(petitioner, asks, bytes) {
      const one = `${asks} ${petitioner.device}`;
      if (asking.has(one) || asking.size >= limits.petitions)
        return refused(petitioner, asks, refuse("busy", "others are being enrolled; ask again"));
      asking.add(one);
      void judge(petitioner, asks, bytes)
        .catch((cause: unknown) => {
          const why = cause instanceof Error ? cause.message : String(cause);
          return refuse("uplink-away", `the authority cannot be asked now: ${why}`);
        })
        .then((verdict) => {
          asking.delete(one);
          if (verdict.ok) answer(petitioner, asks, verdict.grant);
          else refused(petitioner, asks, verdict);
        });
    },
  };
}
