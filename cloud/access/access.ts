import { createKeyring } from "@tributary/proto/identity/keyring.js";
import { type UserToken, verifyUserToken } from "@tributary/proto/identity/tokens.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { type PendingLine, withPending } from "../audit/pending.js";
import type { AccessStore } from "../store/access.js";
import type { TokenRow } from "../store/access-rows.js";
import { type Caller, FLEET } from "./permissions.js";
import type { AccessPorts } from "./ports.js";
import type { Projects } from "./projects.js";
import { createTokens, type Tokens } from "./tokens.js";

/** Who may call the API, and what for. */
export type Access = {
  /** Undefined where nobody needs a token: a cloud without an authority, on loopback. */
  readonly secured?: {
    /** Finds out who shows a token. */
    authenticate(
      authorization: string | undefined,
    ): Promise<Verdict<{ readonly caller: Caller }, AuthCode>>;
    readonly tokens: Tokens;
  };
  /** Undefined where the store is not SQL: then all belongs to the one project there is. */
  readonly projects?: Projects | undefined;
};

export type AuthCode = "unauthenticated" | Refusal["code"];

/** Who asks where nobody needs a token. */
export const localCaller: Caller = {
  subject: "local",
  name: "this machine",
  grants: [{ project: FLEET, role: "owner" }],
};

/** For a cloud without an authority, which only its own machine reaches. */
export function openAccess(projects?: Projects): Access {
  return { projects };
}

export function createAccess(ports: AccessPorts): Access {
  const { authority, store, clock, projects, provider } = ports;
  const owned = async (text: string): Promise<Verdict<{ readonly caller: Caller }, AuthCode>> => {
    const judged = await verifyUserToken(text, {
      fleet: authority.fleet,
      keyring: createKeyring(await authority.jwks()),
      nowMs: clock.nowMs(),
      isRevoked: () => false,
    });
    if (!judged.ok) return judged;
    const { token } = judged;
    const known = (await store.token(token.jti)) ?? (await record(store, token, clock.nowMs()));
    if (known.state === "revoked") return refuse("token-revoked", "the token was revoked");
    const { subject, name } = known;
    return { ok: true, caller: { subject, name, grants: await grantsOf(store, subject, token) } };
  };
  return {
    secured: {
      async authenticate(authorization) {
        const [, text] = /^Bearer +(\S+)$/i.exec(authorization ?? "") ?? [];
        if (text === undefined)
          return refuse("unauthenticated", "show a token: Authorization: Bearer <token>");
        if (!provider?.issued(text)) return owned(text);
        const judged = await provider.verify(text, clock.nowMs());
        if (!judged.ok) return judged;
        const { subject, name } = judged.person;
        return { ok: true, caller: { subject, name, grants: await grantsOf(store, subject) } };
      },
      tokens: createTokens(ports),
    },
    projects,
  };
}

async function grantsOf(
  store: AccessStore,
  subject: string,
  { roles }: Pick<UserToken, "roles"> = { roles: [] },
): Promise<Caller["grants"]> {
  const memberships = await store.memberships(subject);
  return [...roles, ...memberships.map(({ project, role }) => ({ project, role }))];
}

/**
 * A token that was made beside the cloud, by who holds its keys, comes on record when it is first shown:
 * so the list has every token that ever opened anything, and each can be revoked.
 */
async function record(store: AccessStore, token: UserToken, nowMs: number): Promise<TokenRow> {
  const { jti: id, sub, name, roles } = token;
  const subject = `user:${sub}`;
  const times = { createdAtMs: token.iat * 1000, expiresAtMs: token.exp * 1000 };
  const row: TokenRow = { id, subject, name, roles, state: "active", createdBy: "keys", ...times };
  const action = "token made with the authority's keys is shown";
  const what = { action, target: `token ${id}`, project: null, outcome: "done" };
  const pending: PendingLine = { entry: { atMs: nowMs, actor: subject, ...what, detail: {} } };
  return withPending(pending, () =>
    store.change(async (rows) => {
      const known = await rows.token(id);
      if (known !== undefined) return known;
      await rows.saveToken(row);
      return row;
    }),
  );
}
