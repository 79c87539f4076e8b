import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";

/** What a gateway must be able to do before its software is trusted to stay. */
export type HealthParts = {
  /** Where the broker listens. */
  readonly broker: { readonly host: string; readonly port: number };
  /** Writes something durably. */
  writeStore(): Promise<void>;
  /** Whether the uplink was tried, with whatever outcome: offline is a normal state. */
  uplinkTried(): boolean;
};

export type HealthFault = {
  readonly part: "broker" | "store" | "uplink";
  readonly message: string;
};

/** How long the broker may take to answer. */
const ANSWER_MS = 5_000;

/** What is not well; nothing when all is. */
export async function checkHealth(parts: HealthParts): Promise<readonly HealthFault[]> {
  const faults: HealthFault[] = [];
  const broken = (part: HealthFault["part"]) => (cause: unknown) => {
    faults.push({ part, message: cause instanceof Error ? cause.message : String(cause) });
  };
  await askBroker(parts.broker).catch(broken("broker"));
  await parts.writeStore().catch(broken("store"));
  if (!parts.uplinkTried()) broken("uplink")("the uplink was not tried yet");
  return faults;
}

const ASKER = "health-check";

/**
 * A CONNECT of MQTT 5, which the broker does not speak: it answers with a CONNACK that refuses the
 * version (MQTT 3.1.1, 3.1.2.2), so that no device comes of asking.
 */
const QUESTION = Buffer.concat([
  Uint8Array.from([0x10, 13 + ASKER.length, 0, 4]),
  Buffer.from("MQTT"),
  Uint8Array.from([5, 2, 0, 60, 0, 0, ASKER.length]),
  Buffer.from(ASKER),
]);

/** Resolves when the broker speaks: MQTT, or TLS where it takes nothing else. */
async function askBroker({ host, port }: HealthParts["broker"]): Promise<void> {
  const place = { host: /^(0\.0\.0\.0|::)$/.test(host) ? "127.0.0.1" : host, port };
  try {
    await answerOf(connectTcp(place), (socket) => socket.write(QUESTION));
  } catch (plain) {
    // Who it is does not matter here: it is this process, by its own port.
    const secure = connectTls({ ...place, rejectUnauthorized: false });
    const greeted = new Promise<void>((resolve) => secure.once("secureConnect", resolve));
    await answerOf(secure, () => {}, greeted).catch(() => {
      throw plain;
    });
  }
}

/** Resolves at the first byte, or what else counts; rejects when the socket ends before, or in time. */
function answerOf(
  socket: Socket,
  onConnect: (socket: Socket) => void,
  also?: Promise<void>,
): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    socket.setTimeout(ANSWER_MS, () => reject(new Error("the broker does not answer")));
    socket.once("connect", () => onConnect(socket));
    socket.once("data", () => resolve());
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("the broker closes the connection unanswered")));
    void also?.then(resolve);
  }).finally(() => socket.destroy());
}
