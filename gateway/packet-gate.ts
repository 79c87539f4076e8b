/** Bounds of packets in bytes, fixed header included: PUBLISH, and every other type. */
export type PacketBounds = { readonly publishBytes: number; readonly controlBytes: number };

/** What may go on to the parser. */
export type Passage = {
  /** Bytes from the start; less than all when the packets that may pass end there. */
  readonly bytes: number;
  /** Packets that begin in them. */
  readonly packets: number;
};

const CONNECT = 1;
const PUBLISH = 3;

/**
 * Watches the bytes of one MQTT connection and says which may go on to the parser, which itself
 * would collect whatever length a packet announces. Costs a few steps per packet.
 * MQTT 3.1.1, 2.2.1 (packet type), 2.2.3 (remaining length) and 3.1 (the first packet is a CONNECT).
 *
 * The function returned takes the next bytes and how many further packets may begin in them. It
 * answers undefined from the first packet on that announces more than its bound, that has a malformed
 * length, or that comes first and is no CONNECT. Bytes past the passage have to be offered again.
 */
export function createPacketGate(
  bounds: PacketBounds,
): (bytes: Uint8Array, packetsMost: number) => Passage | undefined {
  let owed = 0; // bytes of the current packet that are still to come
  let type = -1; // of the packet whose length is being read; -1 between packets
  let length = 0;
  let lengthBytes = 0;
  let first = true;
  let open = true;

  return (bytes, packetsMost) => {
    let at = 0;
    let packets = 0;
    while (open && at < bytes.length) {
      if (owed > 0) {
        const passed = Math.min(owed, bytes.length - at);
        owed -= passed;
        at += passed;
        continue;
      }
      if (type < 0) {
        if (packets === packetsMost) break;
        packets++;
        type = (bytes[at++] as number) >> 4;
        length = 0;
        lengthBytes = 0;
        if (first && type !== CONNECT) open = false;
        first = false;
        continue;
      }
      const byte = bytes[at++] as number;
      length += (byte & 127) * 128 ** lengthBytes++;
      const more = byte >= 128;
      const bound = type === PUBLISH ? bounds.publishBytes : bounds.controlBytes;
      if ((more && lengthBytes === 4) || 1 + lengthBytes + length > bound) open = false;
      else if (!more) {
        owed = length;
        type = -1;
      }
    }
    return open ? { bytes: at, packets } : undefined;
  };
}
