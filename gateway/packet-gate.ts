/** Bounds of packets in bytes, fixed header included: PUBLISH, and every other type. */
export type PacketBounds = { readonly publishBytes: number; readonly controlBytes: number };

const PUBLISH = 3;

/**
 * Watches the bytes of one MQTT connection and says whether they may go on to the parser, which
 * itself would collect whatever length a packet announces. Costs a few steps per packet.
 * MQTT 3.1.1, 2.2.1 (packet type) and 2.2.3 (remaining length).
 *
 * The function returned takes the next bytes and answers false from the first packet on that
 * announces more than its bound, or a malformed length.
 */
export function createPacketGate(bounds: PacketBounds): (bytes: Uint8Array) => boolean {
  let owed = 0; // bytes of the current packet that are still to come
  let type = -1; // of the packet whose length is being read; -1 between packets
  let length = 0;
  let lengthBytes = 0;
  let open = true;

  return (bytes) => {
    let at = 0;
    while (open && at < bytes.length) {
      if (owed > 0) {
        const passed = Math.min(owed, bytes.length - at);
        owed -= passed;
        at += passed;
        continue;
      }
      const byte = bytes[at++] as number;
      if (type < 0) {
        type = byte >> 4;
        length = 0;
        lengthBytes = 0;
        continue;
      }
      length += (byte & 127) * 128 ** lengthBytes++;
      const more = byte >= 128;
      const bound = type === PUBLISH ? bounds.publishBytes : bounds.controlBytes;
      if ((more && lengthBytes === 4) || 1 + lengthBytes + length > bound) open = false;
      else if (!more) {
        owed = length;
        type = -1;
      }
    }
    return open;
  };
}
