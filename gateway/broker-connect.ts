import type { X509Certificate } from "node:crypto";
import { isId } from "@tributary/proto/wire/ids.js";
import type { DeviceAccess, Standing } from "./device-access.js";
import type { DropReason } from "./drops.js";
import { limits } from "./limits.js";

/** What a CONNECT packet holds (MQTT 3.1.1, 3.1), as the library hands it over. */
export type Connect = {
  clientId: string;
  clean?: boolean;
  readonly keepalive?: number;
  readonly will?: unknown;
  readonly username?: string;
  readonly password?: Uint8Array;
};

/** CONNACK return codes (MQTT 3.1.1, 3.2.2.3). */
const IDENTIFIER_REJECTED = 2;
const SERVER_UNAVAILABLE = 3;
const NOT_AUTHORIZED = 5;

export type ConnectRefusal = {
  readonly taken: false;
  readonly returnCode: number;
  readonly reason: DropReason;
  readonly message: string;
};

/** Who was let in, and as what. */
export type Session = {
  readonly taken: true;
  readonly device: string;
  readonly standing: Standing;
};

function refuse(returnCode: number, reason: DropReason, message: string): ConnectRefusal {
  return { taken: false, returnCode, reason, message };
}

export const unavailable = (reason: DropReason, message: string): ConnectRefusal =>
  refuse(SERVER_UNAVAILABLE, reason, message);

/** A CONNECT that nobody has judged is not taken. */
export const unjudged = refuse(NOT_AUTHORIZED, "client-id", "a CONNECT nobody judged");

/** Whether a connection is for a certificate alone. */
export function isPetitioner({ standing }: Session): boolean {
  return standing.as === "newcomer" || standing.as === "late";
}

/**
 * Judges a CONNECT by its form, then by who comes.
 *
 * @param access without it everybody is who they say
 */
export async function judgeConnect(
  { clientId, will, keepalive = 0, username, password }: Connect,
  certificates: readonly X509Certificate[],
  access: DeviceAccess | undefined,
): Promise<ConnectRefusal | Session> {
  if (!isId(clientId))
    return refuse(IDENTIFIER_REJECTED, "client-id", "the client id is no device id");
  if (will) return refuse(NOT_AUTHORIZED, "will", "wills are not used here");
  if (keepalive < 1 || keepalive > limits.keepaliveSecondsMax) {
    const range = `1 to ${limits.keepaliveSecondsMax} s`;
    return refuse(NOT_AUTHORIZED, "keepalive", `a keepalive of ${keepalive} s; ask for ${range}`);
  }
  const device = clientId;
  if (access === undefined) return { taken: true, device, standing: { as: "anybody" } };
  const secret = password === undefined ? undefined : Buffer.from(password).toString();
  const admitted = await access.admit({ device, username, password: secret, certificates });
  if (!admitted.ok)
    return refuse(NOT_AUTHORIZED, "credential", `${admitted.code}: ${admitted.message}`);
  return { taken: true, device, standing: admitted.standing };
}
