import type { SessionParams } from "@tributary/cloud/params.js";
import type { Store } from "@tributary/cloud/store/store.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { Settings } from "../settings.js";
import { oftenDark, planted } from "./planted.js";

/** A store that has every late Partial expire: the cloud hears of it when it asks again. */
function withoutLate(store: Store): Store {
  return {
    ...store,
    async recordPartial(partial, contributions) {
      if (partial.outcome !== "kept") return store.recordPartial(partial, contributions);
      const expired = { outcome: "expired", rule: "max-staleness" } as const;
      await store.recordPartial(
        { ...partial, ...expired, retained: false },
        contributions.map((contribution) => ({ ...contribution, ...expired })),
      );
      throw new TributaryError("store-unreachable", "the answer is lost", { retryable: true });
    },
  };
}

export const lateExpires = planted(
  "the cloud's store lets a late Partial expire as too old, whatever its age",
  "rules",
  30,
  () => ({ cloudStore: withoutLate }),
);

/** A buffered session that needs more than one contribution, and a cloud that often starts anew. */
function inBuffers(settings: Settings): Settings {
  const devices = settings.gateways.flatMap((gateway) => gateway.devices).length;
  const aggregation = {
    kind: "buffered",
    contributors: Math.min(devices, settings.session.totalMax),
    staleness: { kind: "constant" },
    maxStaleness: 20,
  } as const;
  return { ...oftenDark(settings), session: { ...settings.session, aggregation, siteQuorum: 1 } };
}

/** A store that gives a session other parameters when the cloud starts anew. */
const remembers = (wrong: (params: SessionParams) => SessionParams) => (store: Store) => ({
  ...store,
  async listSessions(page: Parameters<Store["listSessions"]>[0]) {
    const { items, next } = await store.listSessions(page);
    return { items: items.map((row) => ({ ...row, params: wrong(row.params) })), next };
  },
});

export const bufferForgotten = planted(
  "the cloud's store forgets K at a restart: a buffered session makes models of one contribution",
  "rules",
  60,
  () => ({
    cloudStore: remembers((params) =>
      params.aggregation.kind === "buffered"
        ? { ...params, aggregation: { ...params.aggregation, contributors: 1 } }
        : params,
    ),
  }),
  inBuffers,
);

export const sitesForgotten = planted(
  "the cloud's store forgets at a restart how many sites a round needs",
  "rules",
  60,
  () => ({ cloudStore: remembers((params) => ({ ...params, sitesQuorum: 1 })) }),
  oftenDark,
);
