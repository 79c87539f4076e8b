import type { Socket } from "node:net";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Allowance } from "./allowances.js";
import { createPacketGate, type PacketBounds } from "./packet-gate.js";

/** What is read of one connection: a CONNECT alone, then as its device's allowance has it. */
export type MeteredReading = {
  /** The CONNECT was accepted: whatever waits behind it is read, too. */
  admit(allowance: Allowance): void;
};

/**
 * Takes the place of a socket's `read`, the one way by which the broker's library takes bytes: so
 * they are looked at first without a copy or a second buffer. What may not be read yet stays in the
 * socket, which reads no more from the network once its buffer is full: back-pressure.
 *
 * @param onRefused the connection is about to be closed for a packet past its bound
 */
export function meterReading(
  socket: Socket,
  bounds: PacketBounds,
  clock: Pick<Clock, "setTimer">,
  onRefused: () => void,
): MeteredReading {
  const pass = createPacketGate(bounds);
  const read = socket.read.bind(socket);
  let allowance: Allowance | undefined;
  let begun = false;
  let waits = false;
  let timer: Timer | undefined;

  function wake(): void {
    waits = false;
    if (!socket.destroyed) socket.emit("readable");
  }

  /** Until the allowance has something again. */
  function pause(waitMs: number): void {
    waits = true;
    timer = clock.setTimer(waitMs, wake);
  }

  function packetsMost(): number {
    if (allowance !== undefined) return allowance.packets;
    return begun ? 0 : 1;
  }

  socket.once("close", () => timer?.cancel());
  socket.read = (size?: number) => {
    if (waits) return null;
    const most = packetsMost();
    if (allowance !== undefined && most === 0) {
      pause(allowance.waitMs);
      return null;
    }
    const bytes: Buffer | null = read(size);
    if (bytes === null) return null;
    const passage = pass(bytes, most);
    if (passage === undefined) {
      onRefused();
      socket.destroy();
      return null;
    }
    begun = true;
    allowance?.spend(passage.packets, passage.bytes);
    if (passage.bytes < bytes.length) {
      waits = true;
      socket.unshift(bytes.subarray(passage.bytes));
      // The others' turn. Before a CONNECT is accepted it is for `admit` to go on.
      if (allowance !== undefined) setImmediate(wake);
    }
    return passage.bytes === 0 ? null : bytes.subarray(0, passage.bytes);
  };

  return {
    admit(given) {
      allowance = given;
      wake();
    },
  };
}
