import { after } from "node:test";
import type { CloudOptions } from "../cloud.js";
import type { CloudEvent } from "../events.js";
import { importInitialModel, startCloud, type TestCloud, temporaryDir } from "./cloud.js";
import { attachGateway, type TestGateway } from "./gateway.js";

/** A cloud with the imported model `s.0`, which the tests of one file share. */
export async function sharedCloud(over: Partial<CloudOptions> = {}): Promise<TestCloud> {
  const { dir, remove } = await temporaryDir();
  const cloud = await startCloud(dir, over);
  after(async () => {
    await cloud.close();
    await remove();
  });
  await importInitialModel(cloud);
  return cloud;
}

/** The first matching event from index `seen` of the log on. */
export function since(
  { event, events }: TestCloud,
  seen: number,
  matches: (event: CloudEvent) => boolean,
): Promise<CloudEvent> {
  return event((each) => matches(each) && events.indexOf(each) >= seen);
}

/** Attaches a gateway with these devices, which the cloud knows of when this resolves. */
export async function gatewayWith(
  cloud: TestCloud,
  id: string,
  ...devices: readonly string[]
): Promise<TestGateway> {
  const seen = cloud.events.length;
  const gateway = await attachGateway(cloud.grpcPort, { id });
  gateway.devices(...devices);
  await since(cloud, seen, (e) => e.name === "devices-changed" && e.gateway === id);
  return gateway;
}

/** Gateways of one test, each with two devices; they leave before the next test begins. */
export async function withGateways(
  cloud: TestCloud,
  ids: readonly string[],
  run: (...gateways: TestGateway[]) => Promise<void>,
): Promise<void> {
  const gateways: TestGateway[] = [];
  try {
    for (const id of ids) gateways.push(await gatewayWith(cloud, id, `${id}-a`, `${id}-b`));
    await run(...gateways);
  } finally {
    for (const session of cloud.sessions.list())
      if (session.state === "running") await cloud.sessions.stop(session.id);
    const seen = cloud.events.length;
    const attached = gateways.filter(({ id }) => isAttached(cloud, id));
    for (const gateway of gateways) gateway.close();
    for (const { id } of attached)
      await since(cloud, seen, (e) => e.name === "gateway-detached" && e.gateway === id);
  }
}

function isAttached({ events }: TestCloud, id: string): boolean {
  const last = events.findLast(
    (e) => (e.name === "gateway-attached" || e.name === "gateway-detached") && e.gateway === id,
  );
  return last?.name === "gateway-attached";
}
