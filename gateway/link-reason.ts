const failures: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there",
  ECONNRESET: "it closed the connection",
  EHOSTUNREACH: "there is no way to it",
  ENETUNREACH: "there is no network to it",
  ETIMEDOUT: "it does not answer",
  ENOTFOUND: "its name is not known",
  EAI_AGAIN: "its name cannot be looked up now",
};

/**
 * Why a call to the upstream failed, in words for whoever reads the log beside the gateway. gRPC
 * puts the system's error into the middle of its own.
 */
export function linkReason(error: {
  readonly message: string;
  readonly details?: unknown;
}): string {
  const details =
    typeof error.details === "string" && error.details !== "" ? error.details : error.message;
  for (const [code, words] of Object.entries(failures)) {
    if (new RegExp(`\\b${code}\\b`).test(details))
      return `the upstream cannot be reached: ${words}`;
  }
  return details.replace(/^\d+ [A-Z_]+: /, "").replace(/\.? *Resolution note: *$/, "");
}
