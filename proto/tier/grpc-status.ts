import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import type { Code } from "../wire/codes.js";
import type { Refusal } from "../wire/verdict.js";

/** The metadata key under which a refusal's own code travels beside the gRPC status. */
export const CODE_KEY = "tributary-code";

const statuses: { readonly [C in Code]?: status } = {
  "protocol-version": status.FAILED_PRECONDITION,
  busy: status.RESOURCE_EXHAUSTED,
  "storage-full": status.RESOURCE_EXHAUSTED,
  "storage-failed": status.UNAVAILABLE,
  "id-in-use": status.ABORTED,
  "not-granted": status.ABORTED,
  "digest-mismatch": status.DATA_LOSS,
  "unknown-model": status.NOT_FOUND,
  "chunk-out-of-order": status.OUT_OF_RANGE,
  "bad-offset": status.OUT_OF_RANGE,
  "certificate-missing": status.UNAUTHENTICATED,
  "certificate-untrusted": status.UNAUTHENTICATED,
  "certificate-not-yet-valid": status.UNAUTHENTICATED,
  "certificate-expired": status.UNAUTHENTICATED,
  "certificate-revoked": status.UNAUTHENTICATED,
  "certificate-subject": status.PERMISSION_DENIED,
};

/** A refusal as the status that ends a call. What is not listed is the caller's mistake. */
export function statusError(refusal: Refusal): ServiceError {
  const metadata = new Metadata();
  metadata.set(CODE_KEY, refusal.code);
  const details = `${refusal.code}: ${refusal.message}`;
  const code = statuses[refusal.code] ?? status.INVALID_ARGUMENT;
  return Object.assign(new Error(details), { code, details, metadata });
}
