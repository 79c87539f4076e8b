import { lookup } from "node:dns/promises";
import { connect, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { systemRandom } from "@tributary/proto/host/random.js";
import { reasonOf } from "../failure.js";
import { type Finding, failure, fine, skipped } from "./finding.js";

const deadlineMs = 5_000;

export type Place = { readonly host: string; readonly port: number };

/** Of `host:port`, `[v6]:port` or a URL of either. */
export function placeOf(address: string): Place {
  const [, host = "", port] = /^(?:\w+:\/\/)?\[?(.*?)\]?:(\d+)$/.exec(address) ?? [];
  return { host, port: Number(port) };
}

/** DNS, then TCP, then what is spoken there; what follows a failure is skipped. */
export async function checkReach(
  who: string,
  place: Place,
  protocol: string,
  speaks: (place: Place, deadlineMs: number) => Promise<string | undefined>,
): Promise<readonly Finding[]> {
  const { host, port } = place;
  const names = { dns: `${who} DNS`, tcp: `${who} TCP`, spoken: `${who} ${protocol}` };
  const findings: Finding[] = [];
  try {
    const address = isIP(host) === 0 ? (await lookup(host)).address : host;
    findings.push(
      fine(names.dns, address === host ? `${host} is an address` : `${host}: ${address}`),
    );
  } catch (error) {
    const advice = `Mend the name in the config, or this machine's DNS (getent hosts ${host}).`;
    return [
      failure(names.dns, `${host}: ${reasonOf(error)}`, advice),
      skipped(names.tcp, "the name was not found"),
      skipped(names.spoken, "the name was not found"),
    ];
  }
  const refused = await tryTcp(place);
  if (refused !== undefined) {
    const advice = `Start the ${who}, or open the way to TCP port ${port} through firewalls.`;
    findings.push(failure(names.tcp, `${host}:${port}: ${refused}`, advice));
    return [...findings, skipped(names.spoken, "nothing is reached")];
  }
  findings.push(fine(names.tcp, `${host}:${port} is reached`));
  const wrong = await speaks(place, deadlineMs);
  findings.push(
    wrong === undefined
      ? fine(names.spoken, `${protocol} is spoken there`)
      : failure(
          names.spoken,
          wrong,
          `Is ${host}:${port} the ${who}, with ${/TLS/.test(protocol) ? "" : "no "}TLS there, and no proxy between?`,
        ),
  );
  return findings;
}

function tryTcp(place: Place): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect(place);
    const end = (reason: string | undefined): void => {
      socket.destroy();
      resolve(reason);
    };
    socket.setTimeout(deadlineMs, () => end(`no answer within ${deadlineMs / 1_000} s`));
    socket.once("connect", () => end(undefined));
    socket.once("error", (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
  });
}

/**
 * Sends a CONNECT of MQTT 3.1.1 (3.1) under a name of its own and reads the CONNACK (3.2); says what
 * is wrong, or nothing. A broker that asks who is there is one that works.
 */
export function tryConnect(place: Place, withinMs: number): Promise<string | undefined> {
  return tryMqtt(() => connect(place), "connect", withinMs);
}

/** The same over TLS, whoever answers: nothing is said but a name that is nobody's. */
export function tryConnectTls(place: Place, withinMs: number): Promise<string | undefined> {
  const open = () => connectTls({ ...place, rejectUnauthorized: false });
  return tryMqtt(open, "secureConnect", withinMs);
}

function tryMqtt(
  open: () => Socket,
  opened: "connect" | "secureConnect",
  withinMs: number,
): Promise<string | undefined> {
  const id = `check-${systemRandom().id(12)}`;
  const body = Buffer.from(
    `\0\u0004MQTT\u0004\u0002\0\u000a\0${String.fromCharCode(id.length)}${id}`,
  );
  const packet = Buffer.concat([Buffer.from([0x10, body.length]), body]);
  return new Promise((resolve) => {
    let received = Buffer.alloc(0);
    const socket = open().once(opened, () => socket.write(packet));
    const end = (reason: string | undefined): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(reason);
    };
    const timer = setTimeout(() => end("no CONNACK came"), withinMs);
    socket.on("data", (part) => {
      received = Buffer.concat([received, part]);
      if (received.length < 4) return;
      const [type, length, , code] = received;
      if (type !== 0x20 || length !== 2) return end("what answers is no MQTT broker");
      // 4 and 5: bad credentials, not authorized.
      end(code === 0 || code === 4 || code === 5 ? undefined : `CONNACK with code ${code}`);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
    socket.once("close", () => end("the connection was closed without a CONNACK"));
  });
}
