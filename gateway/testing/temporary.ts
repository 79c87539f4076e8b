import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openStore, type Store } from "../store.js";

/** Temporary things of one test file; `close` takes them all away. */
export type Temporary = {
  dir(): Promise<string>;
  store(dir?: string, ledgerRounds?: number): Promise<Store>;
  close(): Promise<void>;
};

export function createTemporary(): Temporary {
  const opened: (() => Promise<unknown>)[] = [];
  let names = 0;
  const self: Temporary = {
    async dir() {
      const dir = await mkdtemp(join(tmpdir(), "gateway-"));
      opened.push(() => rm(dir, { recursive: true, force: true }));
      return dir;
    },
    async store(dir, ledgerRounds = 64) {
      const path = join(dir ?? (await self.dir()), "index");
      const newIncarnation = () => `inc-${++names}`;
      const bounds = { ledgerRounds, receivedPartials: 3, expiries: 3 };
      const store = await openStore({ path, newIncarnation, ...bounds });
      opened.push(() => store.close());
      return store;
    },
    async close() {
      for (const close of opened.splice(0).reverse()) await close();
    },
  };
  return self;
}
