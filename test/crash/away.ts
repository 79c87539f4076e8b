import { firstOf } from "tributary/cli/api.js";
import { until } from "../floor/until.js";
import { receiptReader } from "./account.js";
import type { Fleet } from "./fleet.js";
import type { Life } from "./life.js";

/** Receipts that the cut-off site gathers each time, so that a stretch has several site rounds. */
const RECEIPTS = 5;

/**
 * For as long as a life of the killed gateway lasts, takes its uplink away whenever it has handed
 * over its part of a round that is still open, because the other site holds back; and gives it back
 * once the site has trained on by itself.
 */
export async function goAway(fleet: Fleet, life: Life, session: string): Promise<void> {
  const { uplink, others, killed } = fleet;
  let over = false;
  const ended = life.ended.then(() => {
    over = true;
  });
  const readReceipts = receiptReader(fleet.auditDir);
  const orOver = async (what: string, holds: () => Promise<boolean>) =>
    until(what, async () => over || (await holds()));
  const round = async () => (await fleet.api().session(session)).round;
  try {
    while (!over) {
      for (const trainer of others) trainer.hold();
      await orOver("the site hands over", async () =>
        ((await round())?.gateways ?? []).some(
          ({ gateway, delivered }) => gateway === killed && delivered > 0,
        ),
      );
      const left = (await round())?.id;
      const held = (await readReceipts()).length;
      uplink.cut();
      await orOver("it trains on", async () => (await readReceipts()).length >= held + RECEIPTS);
      uplink.restore();
      await orOver("it is back", async () =>
        (await firstOf(fleet.api().gateways())).some(
          ({ id, attached }) => id === killed && attached,
        ),
      );
      for (const trainer of others) trainer.release();
      await orOver("the round ends", async () => (await round())?.id !== left);
    }
  } finally {
    for (const trainer of others) trainer.release();
    uplink.restore();
    await ended;
  }
}
