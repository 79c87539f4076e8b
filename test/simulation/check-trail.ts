import type { ModelRow } from "@tributary/cloud/store/rows.js";
import type { Slice } from "@tributary/cloud/store/store.js";
import type { Account } from "./account.js";
import { checkAccount } from "./check-account.js";
import { wrongInRegister } from "./check-rules.js";
import type { Failures } from "./failures.js";
import { createFold } from "./fold.js";
import type { Holdings } from "./holdings.js";
import type { CloudProgram } from "./programs.js";
import type { Settings } from "./settings.js";
import { siteHistories } from "./site-history.js";

/** What the cloud's trail says at the end, against what the devices saw and trained. */
export async function checkTrail(
  settings: Settings,
  cloud: Pick<CloudProgram, "store" | "disk" | "register">,
  account: Account,
  holdings: Pick<Holdings, "lost" | "stretches">,
  failures: Failures,
): Promise<void> {
  const { name } = settings.session;
  const { store } = cloud;
  const rows = await all((after: readonly [number, number, string] | undefined) =>
    store.listContributions({ session: name }, { after, limit: 1_000 }),
  );
  const rounds = await all((after: number | undefined) =>
    store.listRounds(name, { after, limit: 1_000 }),
  );
  const models = await all((after: number | undefined) =>
    store.listModels({}, { after, limit: 1_000 }),
  );
  const evaluations = await all((after: number | undefined) =>
    store.evaluations(name, { after, limit: 1_000 }),
  );
  const judged = new Set(evaluations.map(({ model }) => model));
  // What was measured in an evaluation that failed counts in the next one of the same model.
  const evaluated = new Set(
    rounds.filter(({ task, base }) => task === "evaluate" && judged.has(base)).map(({ id }) => id),
  );
  const histories = siteHistories(account, holdings, rows);
  checkAccount(account, holdings, histories, { rows, models, evaluated }, failures);
  if (failures.first !== undefined) return;
  const fold = createFold(settings, cloud.disk, account, histories, { rows, rounds });
  for (const model of models.sort((a, b) => number(a) - number(b))) {
    const wrong = await fold.check(model);
    if (wrong !== undefined) failures.add("fold", `${model.id}: ${wrong}`);
  }
  for (const wrong of wrongInRegister(settings, cloud.register.entries))
    failures.add("rules", wrong);
}

function number({ id }: ModelRow): number {
  return Number(id.slice(id.lastIndexOf(".") + 1));
}

async function all<T, K>(page: (after: K | undefined) => Promise<Slice<T, K>>): Promise<T[]> {
  const items: T[] = [];
  for (let after: K | undefined; ; ) {
    const slice = await page(after);
    items.push(...slice.items);
    after = slice.next;
    if (after === undefined) return items;
  }
}
