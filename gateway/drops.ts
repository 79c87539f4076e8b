import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";

/** Why a connection, or what came on one, was not taken. A closed set: it is counted by reason. */
export type DropReason =
  /** As many connections as the gateway takes, or as it takes of one address. */
  | "connections"
  | "address-connections"
  /** As many of one address that have not finished their CONNECT as it takes. */
  | "address-handshakes"
  /** New connections of one address come faster than it takes them. */
  | "address-rate"
  /** An MQTT packet announces more than its bound, or the first is no CONNECT. */
  | "packet"
  /** What is no MQTT, or a topic of too many levels. */
  | "protocol"
  /** No CONNECT came in time, or the device took nothing of what is sent to it. */
  | "connect-timeout"
  | "drain-timeout"
  /** A handshake that failed: no TLS, or none that both sides speak. */
  | "tls"
  /** What was shown at CONNECT does not do, or does no more: the detail begins with the code. */
  | "credential"
  /** As many that ask for a certificate as the gateway takes, or one of them that stays too long. */
  | "petitioners"
  /** A CONNECT that is not taken. */
  | "client-id"
  | "will"
  | "keepalive"
  /** A CONNECT of a device that has spent its allowance, and a device that was cut for refusals. */
  | "allowance"
  | "refusals"
  /** What a device may not do. */
  | "subscribe"
  | "publish"
  | "retain"
  | "qos"
  /** A publish on a connection that a newer one has replaced. */
  | "replaced";

/** Reports drops: the first of a reason at once, further ones together. */
export type Drops = {
  /** @param detail of this drop: the address, or what was asked for */
  note(device: string, reason: DropReason, detail: string): void;
  /** Reports what is still counted. */
  close(): void;
};

type Tally = { count: number; device: string; detail: string; timer: Timer };

/** However much is dropped, each reason is one event in `limits.dropsReportMs`, with its count. */
export function createDrops(clock: Pick<Clock, "setTimer">, events: GatewayEvents): Drops {
  const tallies = new Map<DropReason, Tally>();

  function report(reason: DropReason, count: number, device: string, detail: string): void {
    events({ level: "warn", name: "connection-refused", device, reason, detail, count });
  }

  function settle(reason: DropReason): void {
    const tally = tallies.get(reason);
    tallies.delete(reason);
    if (tally === undefined || tally.count === 0) return;
    report(reason, tally.count, tally.device, tally.detail);
    watch(reason);
  }

  function watch(reason: DropReason): void {
    const timer = clock.setTimer(limits.dropsReportMs, () => settle(reason));
    tallies.set(reason, { count: 0, device: "", detail: "", timer });
  }

  return {
    note(device, reason, detail) {
      const tally = tallies.get(reason);
      if (tally === undefined) {
        report(reason, 1, device, detail);
        watch(reason);
        return;
      }
      tally.count++;
      tally.device = device;
      tally.detail = detail;
    },
    close() {
      for (const [reason, { timer, count, device, detail }] of tallies) {
        timer.cancel();
        if (count > 0) report(reason, count, device, detail);
      }
      tallies.clear();
    },
  };
}
