import type { Model } from "@tributary/device-sdk/trainer.js";
import { tensorLength } from "@tributary/proto/algebra/layout.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { decodeSafetensors } from "@tributary/proto/wire/safetensors.js";

/** A downloaded model file as a trainer sees a model. */
export function modelOf(file: Uint8Array): Model {
  const decoded = decodeSafetensors(file);
  if (!decoded.ok)
    throw new Error(`the cloud gave a model that cannot be read: ${decoded.message}`);
  let at = 0;
  const tensors = decoded.layout.map((spec) => {
    const values = decoded.values.subarray(at, at + tensorLength(spec));
    at += values.length;
    return [spec.name, { shape: spec.shape, values }] as const;
  });
  return { id: "downloaded.0", digest: sha256(file), tensors: new Map(tensors) };
}
