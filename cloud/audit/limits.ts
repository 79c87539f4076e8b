/** Bounds of the audit log, with what happens at them. Nothing ever removes a line. */
export const auditLimits = {
  /** Like refusals of one caller within so long are one line, and one more that says how many. */
  refusalWindowMs: 60_000,
  /** Kinds of refusals told apart within that time; what goes past it is counted together. */
  refusalKinds: 1_000,
  /** Between two looks at whether the authority's keys were changed beside the cloud. */
  keyLookMs: 60_000,
  /** Characters of a target, and of a value in the detail. Cut. */
  textChars: 200,
} as const;
