import type { Grant } from "@tributary/cloud/access/permissions.js";
import type { InvitationView } from "@tributary/cloud/access/projects.js";
import type { Alarm } from "@tributary/cloud/alarms.js";
import type { AuditLine } from "@tributary/cloud/audit/chain.js";
import type { ClaimView, DenylistView, FleetTrust } from "@tributary/cloud/authority/authority.js";
import type { ChallengeRequest, ChallengeView } from "@tributary/cloud/challenges.js";
import type { SpreadView } from "@tributary/cloud/denylist.js";
import type { SessionView } from "@tributary/cloud/session-view.js";
import type {
  MemberRow,
  ProjectRow,
  SiteRow,
  TokenRow,
} from "@tributary/cloud/store/access-rows.js";
import type { EnrolmentRow } from "@tributary/cloud/store/identity-rows.js";
import type { PackageRow } from "@tributary/cloud/store/packages.js";
import type {
  ContributionRow,
  DeviceRow,
  GatewayRow,
  ModelRow,
  RoundRow,
} from "@tributary/cloud/store/rows.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import type { Bundle } from "@tributary/proto/identity/bundle.js";
import { z } from "zod";
import { CommandFailure } from "./failure.js";
import { createHttp, type HttpOptions } from "./http.js";
import { cliLimits } from "./limits.js";

/**
 * The cloud's REST API as the command uses it. Every call throws a `CommandFailure` that says
 * whether the cloud refused or could not be reached. Answers of a newer cloud may have further
 * members; an object or list where the API promises one is checked, its members are not.
 */
export type Api = {
  startSession(params: Readonly<Record<string, unknown>>): Promise<SessionView>;
  stopSession(id: string): Promise<SessionView>;
  resumeSession(id: string): Promise<SessionView>;
  session(id: string): Promise<SessionView>;
  sessions(): AsyncGenerator<SessionView>;
  /** The newest first. */
  rounds(session: string): AsyncGenerator<RoundRow>;
  /** Receipted contributions and what became of them, by round and device. */
  contributions(session: string): AsyncGenerator<ContributionRow>;
  importModel(name: string, bytes: Uint8Array<ArrayBuffer>, project?: string): Promise<ModelRow>;
  /** The newest first. */
  models(filter: { readonly session?: string }): AsyncGenerator<ModelRow>;
  model(id: string): Promise<ModelRow>;
  /** From the model back to the one without a parent. */
  trail(id: string): AsyncGenerator<ModelRow>;
  modelFile(id: string): AsyncGenerator<Uint8Array>;
  activate(id: string, session?: string): Promise<SessionView>;
  gateways(): AsyncGenerator<GatewayRow>;
  devices(filter: { readonly site?: string; readonly gateway?: string }): AsyncGenerator<DeviceRow>;
  /** The answer's text is the claim itself, a secret that is had this once. */
  createClaim(scope: object): Promise<{ readonly claim: ClaimView; readonly text: string }>;
  claims(): AsyncGenerator<ClaimView>;
  revokeClaim(id: string): Promise<ClaimView>;
  enrolments(filter: { readonly state?: EnrolmentRow["state"] }): AsyncGenerator<EnrolmentRow>;
  decideEnrolment(id: string, action: "accept" | "reject"): Promise<EnrolmentRow>;
  revoke(kind: string, name: string): Promise<DenylistView>;
  whoami(): Promise<{
    readonly subject: string;
    readonly name: string;
    readonly roles: readonly Grant[];
  }>;
  /** The answer's text is the token itself, a secret that is had this once. */
  createToken(scope: object): Promise<{ readonly token: TokenRow; readonly text: string }>;
  tokens(): AsyncGenerator<TokenRow>;
  revokeToken(id: string): Promise<TokenRow>;
  createProject(id: string, name?: string): Promise<ProjectRow>;
  projects(): AsyncGenerator<ProjectRow>;
  projectSites(project: string): Promise<{ readonly items: readonly string[] }>;
  giveSite(project: string, site: string): Promise<SiteRow>;
  members(project: string): AsyncGenerator<MemberRow>;
  removeMember(project: string, subject: string): Promise<MemberRow>;
  /** The answer's text is the invitation itself, a secret that is had this once. */
  invite(
    project: string,
    to: object,
  ): Promise<{ readonly invitation: InvitationView; readonly text: string }>;
  invitations(project: string): AsyncGenerator<InvitationView>;
  revokeInvitation(project: string, id: string): Promise<InvitationView>;
  acceptInvitation(invitation: string): Promise<MemberRow>;
  /** Oldest first. */
  audit(filter: Readonly<Record<string, string>>): AsyncGenerator<AuditLine>;
  denylist(): Promise<DenylistView>;
  denylistSpread(): Promise<SpreadView>;
  /** The newest first. */
  alarms(): Promise<readonly Alarm[]>;
  /** Asks a gateway for signed updates behind the newest Partial that fits. */
  challenge(request: ChallengeRequest): Promise<ChallengeView>;
  challengeOf(id: string): Promise<ChallengeView>;
  /** The newest first. */
  challenges(): AsyncGenerator<ChallengeView>;
  uploadPackage(bytes: Uint8Array<ArrayBuffer>, project?: string): Promise<PackageRow>;
  packages(): AsyncGenerator<PackageRow>;
  removePackage(id: string): Promise<PackageRow>;
  /** What a machine of the fleet is given to trust. */
  fleetTrust(): Promise<FleetTrust>;
  signBundle(bundle: Bundle): Promise<{ readonly manifest: string }>;
};

export function createApi(options: HttpOptions): Api {
  const { call, download } = createHttp(options);
  const get = async <T>(path: string): Promise<T> =>
    object(await call({ method: "GET", path }), path) as T;
  const post = async <T>(path: string, body: object = {}): Promise<T> =>
    object(await call({ method: "POST", path, ...body }), path) as T;

  /** The items of a list, page after page as far as the caller reads. */
  async function* list<T>(
    path: string,
    filter: Readonly<Record<string, string>> = {},
  ): AsyncGenerator<T> {
    let cursor: string | undefined;
    do {
      const query = new URLSearchParams({ ...filter, ...(cursor === undefined ? {} : { cursor }) });
      const page = pageSchema.safeParse(
        await call({ method: "GET", path: query.size === 0 ? path : `${path}?${query}` }),
      );
      if (!page.success) throw unexpected(path, "a list");
      yield* page.data.items as T[];
      cursor = page.data.next ?? undefined;
    } while (cursor !== undefined);
  }

  return {
    startSession: (params) => post("/sessions", { json: params }),
    stopSession: (id) => post(`/sessions/${part(id)}/stop`),
    resumeSession: (id) => post(`/sessions/${part(id)}/resume`),
    session: (id) => get(`/sessions/${part(id)}`),
    sessions: () => list("/sessions"),
    rounds: (session) => list(`/sessions/${part(session)}/rounds`),
    contributions: (session) => list(`/sessions/${part(session)}/contributions`),
    importModel: (name, bytes, project) =>
      post(
        `/models?name=${part(name)}${project === undefined ? "" : `&project=${part(project)}`}`,
        { bytes },
      ),
    models: (filter) => list("/models", filter),
    model: (id) => get(`/models/${part(id)}`),
    trail: (id) => list(`/models/${part(id)}/trail`),
    modelFile: (id) => download(`/models/${part(id)}/file`),
    activate: (id, session) =>
      post(
        `/models/${part(id)}/activate${session === undefined ? "" : `?session=${part(session)}`}`,
      ),
    gateways: () => list("/gateways"),
    devices: (filter) => list("/devices", filter),
    createClaim: (scope) => post("/claims", { json: scope }),
    claims: () => list("/claims"),
    revokeClaim: (id) => post(`/claims/${part(id)}/revoke`),
    enrolments: (filter) => list("/enrolments", filter),
    decideEnrolment: (id, action) => post(`/enrolments/${part(id)}/${action}`),
    revoke: (kind, name) => post("/denylist", { json: { kind, name } }),
    whoami: () => get("/whoami"),
    createToken: (scope) => post("/tokens", { json: scope }),
    tokens: () => list("/tokens"),
    revokeToken: (id) => post(`/tokens/${part(id)}/revoke`),
    createProject: (id, name) => post("/projects", { json: { id, ...(name && { name }) } }),
    projects: () => list("/projects"),
    projectSites: (project) => get(`/projects/${part(project)}/sites`),
    giveSite: (project, site) => post(`/projects/${part(project)}/sites`, { json: { site } }),
    members: (project) => list(`/projects/${part(project)}/members`),
    removeMember: (project, subject) =>
      post(`/projects/${part(project)}/members/remove`, { json: { subject } }),
    invite: (project, to) => post(`/projects/${part(project)}/invitations`, { json: to }),
    invitations: (project) => list(`/projects/${part(project)}/invitations`),
    revokeInvitation: (project, id) =>
      post(`/projects/${part(project)}/invitations/${part(id)}/revoke`),
    acceptInvitation: (invitation) => post("/invitations/accept", { json: { invitation } }),
    audit: (filter) => list("/audit", { ...filter, limit: "500" }),
    denylist: () => get("/denylist"),
    denylistSpread: () => get("/denylist/spread"),
    alarms: () => firstOf(list<Alarm>("/alarms")),
    challenge: (request) => post("/challenges", { json: request }),
    challengeOf: (id) => get(`/challenges/${part(id)}`),
    challenges: () => list("/challenges"),
    uploadPackage: (bytes, project) =>
      post(`/packages${project === undefined ? "" : `?project=${part(project)}`}`, { bytes }),
    packages: () => list("/packages"),
    removePackage: (id) => post(`/packages/${part(id)}/remove`),
    fleetTrust: () => get("/trust"),
    signBundle: (bundle) => post("/bundles/signatures", { json: bundle }),
  };
}

const pageSchema = z.looseObject({
  items: z.array(z.unknown()),
  next: z.string().nullish(),
});

/** The first `count` items. */
export async function firstOf<T>(
  items: AsyncIterable<T>,
  count: number = cliLimits.listedMax,
): Promise<readonly T[]> {
  const taken: T[] = [];
  if (count === 0) return taken;
  for await (const item of items) {
    taken.push(item);
    if (taken.length >= count) break;
  }
  return taken;
}

function part(id: string): string {
  return encodeURIComponent(id);
}

function object(answer: unknown, path: string): object {
  if (typeof answer === "object" && answer !== null && !Array.isArray(answer)) return answer;
  throw unexpected(path, "an object");
}

function unexpected(path: string, wanted: string): CommandFailure {
  return new CommandFailure(
    "unexpected-answer",
    `the cloud answered ${path} with something else than ${wanted}; is its version another?`,
    exitCodes.unavailable,
  );
}
