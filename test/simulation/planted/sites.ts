import type { Settings } from "../settings.js";
import { oftenDark, planted } from "./planted.js";

function inSiteRounds(settings: Settings): Settings {
  const session = {
    ...settings.session,
    siteRounds: 3,
    offlineSiteRounds: 4,
    saturate: true,
  };
  return { ...oftenDark(settings), session };
}

export const siteStateKeptOld = planted(
  "a gateway's disk keeps the first state of a round's site rounds: a restart forgets the later ones",
  "account",
  60,
  () => ({
    disk: (disk, tier) =>
      tier !== "gateway"
        ? disk
        : {
            ...disk,
            async writeFileAtomic(path, parts) {
              if (path.startsWith("sites/") && (await disk.exists(path))) return;
              await disk.writeFileAtomic(path, parts);
            },
          },
  }),
  inSiteRounds,
);

export const slotsForgotten = planted(
  "the cloud's store forgets at a restart which deltas its models carry on: a site's memory is lost",
  "fold",
  60,
  () => ({
    cloudStore: (store) => ({
      ...store,
      retainedPartials: async (session) =>
        (await store.retainedPartials(session)).filter(({ outcome }) => outcome !== "merged"),
    }),
  }),
  (settings) => {
    const { "session-stop": _, ...everyMs } = settings.everyMs;
    const aggregation = { kind: "site-memory", halfLife: 10 } as const;
    return { ...oftenDark(settings), everyMs, session: { ...settings.session, aggregation } };
  },
);
