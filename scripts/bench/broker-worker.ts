import { createBroker } from "@tributary/gateway/broker.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { SITE } from "./plan.js";
import { answerCommands } from "./worker.js";

/** The gateway's broker with nothing behind it: takes messages, acknowledges and drops them. */
answerCommands(async () => {
  const broker = await createBroker({
    site: SITE,
    handlers: { onMessage() {}, onConnected() {}, onDisconnected() {}, onRefused() {} },
    clock: systemClock(),
  });
  return { port: await broker.listen("127.0.0.1", 0) };
});
