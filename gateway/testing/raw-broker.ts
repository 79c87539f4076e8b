import assert from "node:assert/strict";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { type BrokerOptions, createBroker, type DeviceLink } from "../broker.js";
import { openRawMqtt, packetTypes, publishPacket, type RawMqtt } from "./raw-mqtt.js";
import { until } from "./wait.js";

const open: (() => unknown)[] = [];

/** Ends what `openBroker` has opened. */
export async function closeBrokers(): Promise<void> {
  for (const close of open.splice(0).reverse()) await close();
}

export const root = "tributary/v1/plant";
export const up = (device: string, kind = "decline"): string => `${root}/up/${device}/${kind}`;
export const some = Buffer.from("x");
/** A broker whose time stands still unless a test moves it: what is spent stays spent. */
export async function openBroker(options: Partial<BrokerOptions> = {}) {
  const clock = createManualClock();
  const received: { device: string; kind: string | undefined; bytes: number }[] = [];
  const refused: string[] = [];
  const here = new Set<string>();
  const link: DeviceLink = await createBroker({
    site: "plant",
    clock,
    handlers: {
      onMessage(device, kind, bytes) {
        received.push({ device, kind, bytes: bytes.length });
        if (kind === undefined) link.send(device, "refusal", some);
      },
      onConnected: (device) => here.add(device),
      onDisconnected: (device) => here.delete(device),
      onRefused: (device, reason) => refused.push(`${reason} ${device}`.trim()),
    },
    ...options,
  });
  const port = await link.listen("127.0.0.1", 0);
  open.push(() => link.close());
  const raw = async (): Promise<RawMqtt> => {
    const made = await openRawMqtt(port);
    open.push(() => made.close());
    return made;
  };
  const device = async (name: string): Promise<RawMqtt> => {
    const made = await raw();
    assert.equal(await made.connect(name), 0);
    return made;
  };
  const of = (name: string) => received.filter((message) => message.device === name);
  /** Has another device served `times` in a row: long enough for what may come to have come. */
  const served = async (other: RawMqtt, name: string, times = 50): Promise<void> => {
    for (let i = 1; i <= times; i++) {
      const before = other.count(packetTypes.puback);
      other.send(publishPacket(up(name), some, { id: i }));
      await until("the other is served", () => other.count(packetTypes.puback) > before);
    }
  };
  return { clock, link, port, received, refused, here, raw, device, of, served };
}

export const closed = (raw: RawMqtt): Promise<void> =>
  until("the connection closes", () => raw.closed);
