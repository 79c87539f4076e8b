import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Arrival } from "./broker-listener.js";
import { limits } from "./limits.js";

/** Connections that ask for a certificate: few, and for a short time, as anybody can open one. */
export type Petitioners = {
  /** Names one, as no device can be named; undefined where there is no place for it. */
  enter(arrival: Pick<Arrival, "socket" | "address">, onLate: () => void): string | undefined;
  left(arrival: Pick<Arrival, "socket" | "address">): void;
  close(): void;
};

export function createPetitioners(clock: Pick<Clock, "setTimer">): Petitioners {
  const here = new Map<Arrival["socket"], Timer>();
  const ofAddress = new Map<string, number>();
  let entered = 0;

  return {
    enter({ socket, address }, onLate) {
      const count = ofAddress.get(address) ?? 0;
      if (socket.destroyed || here.size >= limits.petitioners) return undefined;
      if (count >= limits.petitionersOfAddress) return undefined;
      ofAddress.set(address, count + 1);
      const timer = clock.setTimer(limits.petitionerMs, () => {
        onLate();
        socket.destroy();
      });
      here.set(socket, timer);
      return `~${++entered}`;
    },
    left({ socket, address }) {
      const timer = here.get(socket);
      if (timer === undefined) return;
      timer.cancel();
      here.delete(socket);
      const count = (ofAddress.get(address) ?? 1) - 1;
      if (count > 0) ofAddress.set(address, count);
      else ofAddress.delete(address);
    },
    close() {
      for (const timer of here.values()) timer.cancel();
    },
  };
}
