import { join } from "node:path";
import { openTestReducer, type TestReducer } from "@tributary/gateway/testing/reducer.js";
import { GATEWAY, SESSION, SITE } from "./plan.js";
import { type Stage, waitFor } from "./stage.js";

/** A real gateway process under an upstream that takes whatever comes. */
export type BenchSite = {
  readonly upstream: TestReducer;
  readonly port: number;
  readonly pid: number;
  readonly dataDir: string;
};

export async function startSite(
  stage: Stage,
  model: Uint8Array,
  settings: object = {},
): Promise<BenchSite> {
  const upstream = await openTestReducer();
  stage.onClose(() => upstream.close());
  upstream.models.set(`${SESSION}.0`, model);
  const dataDir = join(stage.directory, "gateway");
  const { pid, started } = await stage.tier({
    tier: "gateway",
    name: "gateway",
    startedEvent: "gateway-started",
    config: {
      site: SITE,
      gateway: GATEWAY,
      dataDir,
      listen: { port: 0 },
      status: { port: 0 },
      upstream: upstream.address,
      ...settings,
    },
  });
  await waitFor("the gateway attaches", () => upstream.attached);
  return { upstream, port: Number(started.port), pid, dataDir };
}
