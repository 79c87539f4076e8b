import { join } from "node:path";
import type { DeviceConfig } from "@tributary/device-sdk/config.js";
import type { GatewayConfig } from "@tributary/gateway/config.js";
import { readSecretFile } from "@tributary/proto/identity/secret-file.js";
import { reasonOf } from "../failure.js";
import { type Finding, failure, fine, skipped, warning } from "./finding.js";

/** So many are looked at, of a process with many devices. */
const SHOWN = 8;

/** Whether a process's devices have what a gateway with TLS asks them for, or a claim to get it. */
export async function checkIdentities(
  { gateway, dataDir, device, devices, site, claimFile }: DeviceConfig,
  nowMs: number,
): Promise<readonly Finding[]> {
  if (!gateway.startsWith("mqtts:") || dataDir === undefined) return [];
  const { openIdentity } = await import("@tributary/device-sdk/identity.js");
  const names = devices?.map((own) => own.device) ?? (device === undefined ? [] : [device]);
  const look = async (name: string): Promise<Finding> => {
    const title = `identity ${name}`;
    try {
      const place = { dir: join(dataDir, name, "identity"), device: name, site };
      const identity = await openIdentity(place);
      if (identity !== undefined) return enrolled(title, identity, nowMs);
      if (claimFile !== undefined) {
        await readSecretFile(claimFile);
        return fine(title, `enrols with the claim in ${claimFile}`);
      }
    } catch (error) {
      return failure(title, reasonOf(error), "Mend the folder, or enrol the device anew.");
    }
    const advice = `tributary claim create --kind device --name ${name} --site ${site}, and name the file in claimFile.`;
    return failure(title, "not enrolled, and there is no claim", advice);
  };
  return Promise.all(names.slice(0, SHOWN).map(look));
}

/** Whether a gateway is enrolled; one that is not works in the clear. */
export async function checkOwnIdentity(
  config: GatewayConfig,
  nowMs: number,
): Promise<readonly Finding[]> {
  const title = "identity";
  const { identityFile, openIdentity } = await import("@tributary/gateway/identity-store.js");
  try {
    const identity = await openIdentity(config);
    if (identity !== undefined) return [enrolled(title, identity, nowMs)];
    const claim = identityFile(config.dataDir, "claim");
    const text = await readSecretFile(claim).catch(() => undefined);
    if (text !== undefined) return [fine(title, `enrols with the claim in ${claim}`)];
    return [skipped(title, "not enrolled: it works in the clear, on this machine alone")];
  } catch (error) {
    return [failure(title, reasonOf(error), "Mend the folder, or enrol the gateway anew.")];
  }
}

function enrolled(
  title: string,
  { fleet, toMs }: { readonly fleet: string; readonly toMs: number },
  nowMs: number,
): Finding {
  const end = new Date(toMs).toISOString();
  return nowMs < toMs
    ? fine(title, `of the fleet ${fleet}, until ${end}`)
    : warning(title, `its certificate ended at ${end}`, "It is renewed at the next contact.");
}
