import type { DevicesChanged } from "../gen/tributary/v1/reducer.js";
import { decodeCbor } from "../wire/cbor.js";
import { type Attributes, attributesSchema } from "../wire/device-link.js";
import { isId } from "../wire/ids.js";
import { limits as wireLimits } from "../wire/limits.js";
import { refuse, type Verdict } from "../wire/verdict.js";
import { limits } from "./limits.js";

/** A device as a gateway reports it. */
export type ReportedDevice = {
  readonly device: string;
  readonly sdk: string;
  readonly attributes: Attributes;
  /** Where it is connected, when that is a gateway below the one that reports it. */
  readonly at?: { readonly site: string; readonly gateway: string };
};

export type DeviceReport = {
  /** Whether the list starts anew. */
  readonly all: boolean;
  readonly joined: readonly ReportedDevice[];
  readonly left: readonly string[];
};

/** Reads a report of devices, as a whole or not at all. */
export function readDeviceReport(
  message: DevicesChanged,
): Verdict<{ readonly report: DeviceReport }, "malformed"> {
  const { all, left } = message;
  const most = Math.max(message.joined.length, left.length);
  if (most > limits.devicesPerMessage) return refuse("malformed", `${most} devices in one message`);
  if (!left.every(isId)) return refuse("malformed", "a device id that is none");
  const joined: ReportedDevice[] = [];
  for (const { device, sdk, attributes: bytes, site, gateway } of message.joined) {
    if (!isId(device)) return refuse("malformed", "a device id that is none");
    if (sdk.length > wireLimits.attributeChars)
      return refuse("malformed", `${device}: its sdk's name is too long`);
    const attributes = readAttributes(bytes);
    if (attributes === undefined) return refuse("malformed", `${device}: unreadable attributes`);
    if (gateway === "" && site === "") joined.push({ device, sdk, attributes });
    else if (isId(gateway) && isId(site))
      joined.push({ device, sdk, attributes, at: { site, gateway } });
    else return refuse("malformed", `${device}: its site and gateway must be ids`);
  }
  return { ok: true, report: { all, joined, left } };
}

function readAttributes(bytes: Uint8Array): Attributes | undefined {
  if (bytes.length === 0) return {};
  const cbor = decodeCbor(bytes, { depth: 2, items: 4 * wireLimits.attributes });
  if (!cbor.ok) return undefined;
  const attributes = attributesSchema.safeParse(cbor.value);
  return attributes.success ? attributes.data : undefined;
}
