import type { Store } from "@tributary/cloud/store/store.js";
import { planted } from "./planted.js";

export const ledgerForgets = planted(
  "the cloud's store knows no Partial again: one that is sent once more is taken once more",
  "account",
  60,
  () => ({
    cloudStore: (store: Store): Store => ({ ...store, partial: async () => undefined }),
  }),
);
