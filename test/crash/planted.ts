import type { BrokerOptions, DeviceLink } from "@tributary/gateway/broker.js";
import { type Begin, upSchemas } from "@tributary/proto/wire/device-link.js";
import { decodeEnvelope, encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";

/**
 * A link that lies: it receipts an update as its last chunk comes in, before the gateway has
 * written it. With it the harness has to report losses; a harness that does not is blind.
 */
export async function receiptEarly(
  options: BrokerOptions,
  open: (options: BrokerOptions) => Promise<DeviceLink>,
): Promise<DeviceLink> {
  const begun = new Map<string, Begin>();
  const link: DeviceLink = await open({
    ...options,
    handlers: {
      ...options.handlers,
      onMessage(device, kind, bytes) {
        if (kind === "begin") {
          const read = decodeEnvelope(upSchemas.begin, bytes, wire.upHeaderBytes);
          if (read.ok) begun.set(device, read.header);
        }
        const begin = begun.get(device);
        if (kind === "chunk" && begin !== undefined) {
          const { round, digest } = begin;
          link.send(device, "receipt", encodeEnvelope({ round, digest }));
        }
        options.handlers.onMessage(device, kind, bytes);
      },
    },
  });
  return link;
}
