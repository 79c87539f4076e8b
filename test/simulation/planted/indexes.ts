import type { Database } from "@tributary/gateway/store.js";
import { planted } from "./planted.js";

export const indexSkipsSync = planted(
  "a gateway's index syncs no batch: a power cut takes the end of a round with its Partial",
  "account",
  150,
  () => ({
    database: (database: Database) => ({
      ...database,
      batch: (operations) => database.batch(operations, { sync: false }),
    }),
  }),
);

export const sequenceReused = planted(
  "a gateway's index forgets the next sequence number at a restart: two Partials have one identity",
  "account",
  30,
  () => ({
    database(database: Database) {
      let written = false;
      return {
        ...database,
        batch(operations, options) {
          written ||= operations.some(({ key }) => key === "meta!sequence");
          return database.batch(operations, options);
        },
        get: async (key) => (key === "meta!sequence" && !written ? undefined : database.get(key)),
      };
    },
  }),
);
