import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { TokenRow } from "../store/access-rows.js";
import type { Page, Slice } from "../store/store.js";
import { filteredSlice } from "./filtered-slice.js";
import { accessLimits } from "./limits.js";
import { type Caller, type Grant, mayGive, permits } from "./permissions.js";
import type { AccessPorts } from "./ports.js";

export type TokenScope = {
  readonly name: string;
  /** Without a kind; a random one where none is given. */
  readonly subject?: string | undefined;
  readonly roles: readonly Grant[];
  readonly lifeMs: number;
};

export type TokenCode = "unknown-token" | "forbidden" | "busy";

/** The fleet's own tokens for people and programs. */
export type Tokens = {
  /** Makes a token, which is not kept and cannot be had again. */
  create(
    scope: TokenScope,
    by: Caller,
  ): Promise<Verdict<{ readonly token: TokenRow; readonly text: string }, TokenCode>>;
  /** Those that somebody may know of: his own, and of projects whose access he may see. By id. */
  list(by: Caller, page: Page<string>): Promise<Slice<TokenRow, string>>;
  /** Voids a token at once. */
  revoke(id: string, by: Caller): Promise<Verdict<{ readonly token: TokenRow }, TokenCode>>;
};

export function createTokens({ authority, store, clock, random }: AccessPorts): Tokens {
  return {
    async create({ name, subject: wanted, roles, lifeMs }, by) {
      const sub = wanted ?? random.id(12);
      const subject = `user:${sub}`;
      const id = random.id(16);
      const iat = Math.floor(clock.nowMs() / 1000);
      const exp = iat + Math.floor(lifeMs / 1000);
      const text = await authority.signUserToken({
        sub,
        name,
        roles: [...roles],
        jti: id,
        iat,
        exp,
      });
      return store.change(async (rows) => {
        // A token speaks for its subject: who makes one hands over what that has besides.
        const held =
          subject === by.subject
            ? []
            : [
                ...(await rows.memberships(subject)),
                ...(await rows.rolesOf(subject, clock.nowMs())),
              ];
        const refused = givingRefusal(by, subject, [...roles, ...held]);
        if (refused !== undefined) return refused;
        const count = await rows.sweepTokens(clock.nowMs() - accessLimits.endedKeptMs);
        if (count >= accessLimits.tokensKept)
          return refuse("busy", `${count} tokens are on record; wait until old ones are forgotten`);
        const times = { createdAtMs: iat * 1000, expiresAtMs: exp * 1000 };
        const state = "active" as const;
        const token: TokenRow = {
          id,
          subject,
          name,
          roles,
          state,
          createdBy: by.subject,
          ...times,
        };
        await rows.saveToken(token);
        return { ok: true, token, text };
      });
    },
    list: (by, page) =>
      filteredSlice(
        (rest) => store.listTokens(rest),
        (token) => maySee(by, token),
        ({ id }) => id,
        page,
      ),
    revoke: (id, by) =>
      store.change(async (rows) => {
        const row = await rows.token(id);
        if (row === undefined || !maySee(by, row)) return refuse("unknown-token", `no token ${id}`);
        const others = row.subject !== by.subject;
        if (others && !row.roles.every((role) => mayGive(by, role, row.subject)))
          return refuse("forbidden", "the token has roles that you may not take");
        if (others && row.roles.length === 0 && !managesAccess(by))
          return refuse("forbidden", "you may not take tokens");
        const token: TokenRow = { ...row, state: "revoked" };
        await rows.saveToken(token);
        return { ok: true, token };
      }),
  };
}

function givingRefusal(by: Caller, subject: string, given: readonly Grant[]) {
  const barred = given.find((grant) => !mayGive(by, grant, subject));
  if (barred !== undefined)
    return refuse("forbidden", `you may not give ${barred.role} of ${barred.project}`);
  return given.length > 0 || managesAccess(by)
    ? undefined
    : refuse("forbidden", "you may not make tokens");
}

function managesAccess({ grants }: Caller): boolean {
  return grants.some(({ role }) => permits(role, "access.manage"));
}

function maySee(by: Caller, { subject, createdBy, roles }: TokenRow): boolean {
  if (subject === by.subject || createdBy === by.subject) return true;
  const seen = by.grants.filter(({ role }) => permits(role, "access.read"));
  if (seen.some(({ project }) => project === "*")) return true;
  return (
    roles.length > 0 && roles.every((one) => seen.some(({ project }) => project === one.project))
  );
}
