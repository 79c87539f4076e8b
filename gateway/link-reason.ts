const failures: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there",
  ECONNRESET: "it closed the connection",
  EHOSTUNREACH: "there is no way to it",
  ENETUNREACH: "there is no network to it",
  ETIMEDOUT: "it does not answer",
  ENOTFOUND: "its name is not known",
  EAI_AGAIN: "its name cannot be looked up now",
};

/** What gRPC says by itself of a connection that came to nothing, in its own words. */
const phrases: readonly (readonly [RegExp, string])[] = [
  [/Failed to connect \(|Connection closed before/, "it closes the connection"],
  [/Name resolution failed/, "its name is not known"],
  [/Deadline exceeded|before the deadline/, "it does not answer"],
];

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
  for (const [phrase, words] of phrases) {
    if (phrase.test(details)) return `the upstream cannot be reached: ${words}`;
  }
  return details
    .replace(/^\d+ [A-Z_]+: /, "")
    .replace(/^No connection established\. Last error: (Error: )?/, "no connection: ")
    .replace(/\.? *Resolution note: *$/, "")
    .replace(/ \(\d{4}-\d\d-\d\dT[\d:.]+Z\)/, "");
}
