import type { TLSSocket } from "node:tls";
import type { Clock } from "@tributary/proto/host/clock.js";
import { type Down, downSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { parseTopic, petitionFilters, upTopic } from "@tributary/proto/wire/topics.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { MqttClient } from "mqtt";
import type { DeviceGrant } from "./identity.js";
import { limits } from "./limits.js";

/** How a CONNECT says who comes. */
export type Login = { readonly username?: string; readonly password?: string };

export type Petition = {
  /** To a gateway that was judged. */
  readonly stream: TLSSocket;
  readonly site: string;
  readonly device: string;
  readonly login: Login;
  readonly asks: "enrol" | "renew";
  readonly request: string;
  readonly clock: Pick<Clock, "setTimer">;
};

/**
 * One connection on which a certificate is asked for, and nothing else said: what the authority answers.
 * Throws `link-failed` when no answer comes.
 */
export function petition(options: Petition): Promise<Verdict<{ readonly grant: DeviceGrant }>> {
  const { stream, site, device, login, asks, request, clock } = options;
  return new Promise((resolve, reject) => {
    const client = new MqttClient(() => stream, {
      ...{ clientId: device, clean: true, protocolVersion: 4, ...login },
      ...{ keepalive: wire.mqttKeepaliveSeconds, reconnectPeriod: 0, resubscribe: false },
    });
    const end = (): void => {
      timer.cancel();
      client.end(true);
    };
    const fail = (message: string): void => {
      end();
      reject(new TributaryError("link-failed", message, { retryable: true }));
    };
    const timer = clock.setTimer(limits.petitionMs, () => fail("no answer came in time"));
    client.on("error", (error) => fail(error.message || "the connection broke"));
    client.on("close", () => fail("the gateway closed the connection"));
    client.on("message", (topic, bytes) => {
      const answer = readAnswer(topic, bytes, asks);
      if (answer === undefined) return;
      end();
      resolve(answer);
    });
    client.on("connect", () => {
      client.subscribe([...petitionFilters(site, device)], { qos: 1 }, (error, granted) => {
        if (error) return fail(`subscribing failed: ${error.message}`);
        if (granted?.some(({ qos }) => qos > 2)) return fail("subscribing was refused");
        client.publish(upTopic(site, device, asks), Buffer.from(encodeEnvelope({ request })), {
          qos: 1,
        });
      });
    });
  });
}

function readAnswer(
  topic: string,
  bytes: Uint8Array,
  asks: "enrol" | "renew",
): Verdict<{ readonly grant: DeviceGrant }> | undefined {
  const parsed = parseTopic(topic);
  if (parsed?.way !== "down") return undefined;
  if (parsed.kind === "enrolled") {
    const read = decodeEnvelope(downSchemas.enrolled, bytes, wire.downHeaderBytes);
    return read.ok ? { ok: true, grant: read.header } : undefined;
  }
  if (parsed.kind !== "refusal") return undefined;
  const read = decodeEnvelope(downSchemas.refusal, bytes, wire.downHeaderBytes);
  const refusal: Down<"refusal"> | undefined = read.ok ? read.header : undefined;
  return refusal?.about === asks ? refuse(refusal.code, refusal.message) : undefined;
}
