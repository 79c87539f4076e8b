import type { roles } from "@tributary/proto/identity/tokens.js";

export type Role = (typeof roles)[number];

/** A role in a project, or under `*` in all of them and in what belongs to none. */
export type Grant = { readonly project: string; readonly role: Role };

/**
 * Who may do what: the roles that have each permission. An owner has all. A steward manages access and
 * sees progress, and no model: the trusted third party of a consortium.
 */
const table = {
  /** Sessions, rounds, contributions, evaluations. */
  "sessions.read": ["operator", "trainer", "viewer", "auditor", "steward"],
  "sessions.start": ["trainer"],
  /** Stop and resume. */
  "sessions.steer": ["operator", "trainer"],
  /** Models with their metrics, and their files. */
  "models.read": ["trainer", "viewer"],
  /** Import and activate. */
  "models.write": ["trainer"],
  /** Gateways, devices, and what they measure of themselves. */
  "fleet.read": ["operator", "trainer", "viewer", "auditor", "steward"],
  "events.read": ["operator", "trainer", "viewer", "auditor"],
  /** Claims, who asked to enrol, who is enrolled and who is shut out. */
  "enrolment.read": ["operator", "auditor", "steward"],
  /** Makes claims, and decides about who waits. */
  "enrolment.manage": ["operator"],
  /** Shuts gateways and devices out. */
  "revocation.manage": ["operator"],
  /** Asks gateways to prove their Partials. */
  "challenges.read": ["operator", "trainer", "auditor", "steward"],
  "challenges.run": ["operator", "auditor"],
  "bundles.sign": ["operator"],
  /** Code that devices run. */
  "packages.read": ["operator", "trainer", "auditor"],
  "packages.write": ["trainer"],
  /** Tokens, projects, members and invitations. */
  "access.read": ["auditor", "steward"],
  "access.manage": ["steward"],
  "audit.read": ["auditor", "steward"],
} as const satisfies Record<string, readonly Role[]>;

export type Permission = keyof typeof table;

/** What a role may do. */
export function permits(role: Role, permission: Permission): boolean {
  const having: readonly Role[] = table[permission];
  return role === "owner" || having.includes(role);
}

/** All projects, and what belongs to none. */
export const FLEET = "*";

/** Where a project's name is not given. */
export const DEFAULT_PROJECT = "default";

/** Who asks. */
export type Caller = {
  /** `user:` or `oidc:` and the `sub` of the token, `address:` of who shows none, or `local`. */
  readonly subject: string;
  readonly name: string;
  readonly grants: readonly Grant[];
};

/**
 * Whether somebody may do something in a project.
 *
 * @param project undefined where there is none, or nobody knows: that takes a role in all projects
 */
export function may(caller: Caller, permission: Permission, project: string | undefined): boolean {
  return caller.grants.some(
    (grant) =>
      (grant.project === FLEET || grant.project === project) && permits(grant.role, permission),
  );
}

/** The projects in which somebody may do something; undefined for all. */
export function projectsWith(
  { grants }: Caller,
  permission: Permission,
): readonly string[] | undefined {
  const having = grants.filter(({ role }) => permits(role, permission));
  if (having.some(({ project }) => project === FLEET)) return undefined;
  return [...new Set(having.map(({ project }) => project))];
}

/**
 * Whether somebody may give a role to a subject. Who gives it must manage access there; only owners make
 * owners and stewards, and nobody but an owner gives anything to himself.
 */
export function mayGive(caller: Caller, { project, role }: Grant, to: string): boolean {
  const there = caller.grants.filter((grant) => [FLEET, project].includes(grant.project));
  if (there.some((grant) => grant.role === "owner")) return true;
  if (role === "owner" || role === "steward" || to === caller.subject) return false;
  return there.some((grant) => permits(grant.role, "access.manage"));
}
