import type { AuditEntry } from "./audit/chain.js";
import type { ChallengeView } from "./challenges.js";

/** What the audit log tells of a challenge that failed. */
export function failedChallenge(
  { id, gateway, round, digest, asked, faults, faultCount, endedAtMs, askedAtMs }: ChallengeView,
  project: string | undefined,
): AuditEntry {
  const [first] = faults;
  return {
    atMs: endedAtMs ?? askedAtMs,
    actor: `gateway:${gateway}`,
    action: "challenge",
    target: `/challenges/${id}`,
    project: project ?? null,
    outcome: first?.code ?? "failed",
    detail: {
      round,
      digest,
      updates: `${asked}`,
      faults: `${faultCount}`,
      ...(first?.device != null && { device: first.device }),
    },
  };
}
