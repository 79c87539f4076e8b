import { stat } from "node:fs/promises";
import type { Clock } from "@tributary/proto/host/clock.js";
import type { Random } from "@tributary/proto/host/random.js";
import { type Bundle, signBundle } from "@tributary/proto/identity/bundle.js";
import {
  anchorOf,
  claimText,
  isSecret,
  makeClaim,
  readClaim,
  secretDigest,
} from "@tributary/proto/identity/claim.js";
import type { Denial } from "@tributary/proto/identity/denylist.js";
import type { Grant } from "@tributary/proto/identity/grant.js";
import type { Jwks } from "@tributary/proto/identity/keyring.js";
import type { Kind } from "@tributary/proto/identity/names.js";
import { readRequest } from "@tributary/proto/identity/request.js";
import { signUserToken } from "@tributary/proto/identity/tokens.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { createAttempts } from "../attempts.js";
import { noteLine } from "../audit/pending.js";
import type { CloudEvents } from "../events.js";
import { limits } from "../limits.js";
import type { IdentityStore } from "../store/identities.js";
import type { ClaimRow, EnrolmentRow, IdentityRow } from "../store/identity-rows.js";
import type { Page, Slice } from "../store/store.js";
import { enrol, type Issued, renew, takenRefusal, unknownClaim } from "./enrolment.js";
import { grantOf, type Issuer, type IssuingRules } from "./issuing.js";
import {
  type AuthorityKeys,
  anchorsOf,
  authorityFile,
  jwksOf,
  listKey,
  readAuthorityKeys,
  signerOf,
  tokenKey,
} from "./keys.js";
import { authorityLimits } from "./limits.js";
import { denylistOf, revoke, signedDenylist } from "./revocation.js";

export type ClaimScope = Pick<ClaimRow, "kind" | "name" | "site" | "uses" | "approval"> & {
  readonly lifeMs: number;
};

export type ClaimView = Omit<ClaimRow, "secretDigest">;

export type DenylistView = {
  readonly sequence: number;
  readonly issuedAtMs: number;
  readonly entries: readonly Denial[];
  /** The list as it travels, signed. */
  readonly text: string;
};

/** Codes of what an operator asks for and cannot have. */
export type AuthorityCode = "unknown-claim" | "unknown-enrolment" | "wrong-state" | "busy";

/** Who may join the fleet, who is in it, and what they are given to show it. */
export type Authority = {
  readonly fleet: string;
  /**
   * Takes a claim and a signing request.
   *
   * @param from the address that it came from; undefined where a gateway passed it on
   */
  enrol(claim: string, request: string, from?: string): Promise<Verdict<{ readonly grant: Grant }>>;
  renew(request: string, from?: string): Promise<Verdict<{ readonly grant: Grant }>>;
  /** Makes a claim; its text, which holds the secret, is not kept and cannot be had again. */
  createClaim(
    scope: ClaimScope,
  ): Promise<Verdict<{ readonly claim: ClaimView; readonly text: string }, AuthorityCode>>;
  listClaims(page: Page<string>): Promise<Slice<ClaimView, string>>;
  /** Takes a claim back: nobody enrols with it any more. Who did, stays. */
  revokeClaim(id: string): Promise<Verdict<{ readonly claim: ClaimView }, AuthorityCode>>;
  listEnrolments: IdentityStore["listEnrolments"];
  /** Decides about an enrolment that waits. */
  decide(
    enrolment: string,
    decision: "accepted" | "rejected",
  ): Promise<Verdict<{ readonly enrolment: EnrolmentRow }, AuthorityCode | Refusal["code"]>>;
  listIdentities(
    page: Page<readonly [Kind, string]>,
  ): Promise<Slice<IdentityRow, readonly [Kind, string]>>;
  /** Voids what an identity was given. */
  revoke(kind: Kind, name: string): Promise<Verdict<{ readonly denylist: DenylistView }>>;
  denylist(): Promise<DenylistView>;
  jwks(): Promise<Jwks>;
  trust(): Promise<FleetTrust>;
  /** Signs a bundle's manifest, whatever it holds: who asks answers for it. */
  signBundle(bundle: Bundle): Promise<string>;
  /** Signs a token of a person or a program. */
  signUserToken(token: Parameters<typeof signUserToken>[1]): Promise<string>;
};

/** What a machine of the fleet is given to trust. */
export type FleetTrust = {
  readonly fleet: string;
  readonly jwks: Jwks;
  /** The authorities' certificates in PEM, the newest first. */
  readonly anchors: readonly string[];
};

export type AuthorityPorts = {
  readonly dataDir: string;
  readonly store: IdentityStore;
  readonly clock: Clock;
  readonly random: Random;
  readonly rules: IssuingRules;
  readonly events: CloudEvents;
};

/**
 * Opens the authority of a data directory; undefined where none was made. Keys that are rotated while it
 * runs count from the next call on. Failures: those of `readAuthorityKeys`.
 */
export async function openAuthority(ports: AuthorityPorts): Promise<Authority | undefined> {
  const keys = await watchKeys(authorityFile(ports.dataDir));
  return keys === undefined ? undefined : createAuthority(ports, keys);
}

export type WatchedKeys = { readonly fleet: string; current(): Promise<AuthorityKeys> };

/** Reads an authority's keys whenever they have changed; undefined where there is none. */
export async function watchKeys(file: string): Promise<WatchedKeys | undefined> {
  const look = async () => {
    const found = await stat(file, { bigint: true }).catch((cause: NodeJS.ErrnoException) => {
      if (cause.code === "ENOENT") return undefined;
      throw new TributaryError("secret-failed", `cannot look at ${file}: ${cause.message}`, {
        cause,
      });
    });
    return found && `${found.ino} ${found.mtimeNs} ${found.size} ${found.mode}`;
  };
  let seen = await look();
  if (seen === undefined) return undefined;
  let keys = await readAuthorityKeys(file);
  const { fleet } = keys;
  return {
    fleet,
    async current() {
      const now = await look();
      if (now !== seen) {
        const next = await readAuthorityKeys(file);
        if (next.fleet !== fleet)
          throw new TributaryError("secret-malformed", `${file} is of another fleet now`);
        keys = next;
        seen = now;
      }
      return keys;
    },
  };
}

function createAuthority(ports: AuthorityPorts, keys: WatchedKeys): Authority {
  const { store, clock, random, rules, events } = ports;
  const attempts = createAttempts(limits.attempts, clock);
  const issuer = async (): Promise<Issuer> => ({
    keys: await keys.current(),
    rules,
    nowMs: clock.nowMs(),
    random,
  });

  const granted = async (
    issued: Issued,
    by: Issuer,
    name: "enrolled" | "renewed",
  ): Promise<Verdict<{ readonly grant: Grant }>> => {
    if (!issued.ok) return issued;
    const { certificate, jwk } = issued;
    const denylist = await signedDenylist(by.keys, await store.denials(), by.nowMs);
    const grant = await grantOf(certificate, jwk, denylist, by);
    const { kind, name: who, site, serial } = certificate;
    events({ level: "info", name, kind, who, site, serial });
    return { ok: true, grant };
  };

  const enrolNow = async (claim: string, request: string) => {
    const given = readClaim(claim);
    if (given === undefined) return refuse("claim-malformed", "this is no claim");
    // Before the signature is checked, which costs more.
    const known = await store.claim(given.id);
    if (known === undefined || !isSecret(given.secret, known.secretDigest)) return unknownClaim();
    const read = await readRequest(request);
    if (!read.ok) return read;
    const { kind, name, site } = read.request.payload;
    noteLine({ claim: given.id, kind, name, site });
    const by = await issuer();
    const issued = await store.change((rows) => enrol(rows, given, read.request, by));
    return granted(issued, by, "enrolled");
  };
  const renewNow = async (request: string) => {
    const read = await readRequest(request);
    if (!read.ok) return read;
    const { kind, name, site } = read.request.payload;
    noteLine({ kind, name, site });
    const by = await issuer();
    const issued = await store.change((rows) => renew(rows, read.request, by));
    return granted(issued, by, "renewed");
  };

  return {
    fleet: keys.fleet,
    enrol: (claim, request, from) => attempts.try(from, claim, () => enrolNow(claim, request)),
    renew: (request, from) => attempts.try(from, undefined, () => renewNow(request)),
    ...claimsOf(ports, keys),
    listEnrolments: (filter, page) => store.listEnrolments(filter, page),
    listIdentities: (page) => store.listIdentities(page),
    async revoke(kind, name) {
      const by = await issuer();
      const refused = await store.change((rows) => revoke(rows, kind, name, by));
      if (refused !== undefined) return refused;
      events({ level: "warn", name: "revoked", kind, who: name });
      return { ok: true, denylist: await viewDenylist(store, by) };
    },
    denylist: async () => viewDenylist(store, await issuer()),
    jwks: async () => jwksOf(await keys.current(), clock.nowMs()),
    async trust() {
      const current = await keys.current();
      const nowMs = clock.nowMs();
      return {
        fleet: current.fleet,
        jwks: jwksOf(current, nowMs),
        anchors: anchorsOf(current, nowMs),
      };
    },
    signBundle: async (bundle) => signBundle(bundle, listKey(await keys.current(), clock.nowMs())),
    signUserToken: async (token) =>
      signUserToken(keys.fleet, token, tokenKey(await keys.current())),
  };
}

async function viewDenylist(store: IdentityStore, { keys, nowMs }: Issuer): Promise<DenylistView> {
  const denials = await store.denials();
  const { sequence, issuedAt, entries } = denylistOf(keys.fleet, denials);
  const text = await signedDenylist(keys, denials, nowMs);
  return { sequence, issuedAtMs: issuedAt * 1000, entries, text };
}

type Claims = Pick<Authority, "createClaim" | "listClaims" | "revokeClaim" | "decide">;

function claimsOf({ store, clock, random }: AuthorityPorts, keys: WatchedKeys): Claims {
  return {
    async createClaim({ lifeMs, ...scope }) {
      const anchor = anchorOf(signerOf(await keys.current()).certificate);
      const claim = makeClaim(random, anchor);
      const nowMs = clock.nowMs();
      const row: ClaimRow = {
        id: claim.id,
        secretDigest: secretDigest(claim.secret),
        ...scope,
        used: 0,
        state: "open",
        createdAtMs: nowMs,
        expiresAtMs: nowMs + lifeMs,
      };
      return store.change(async (rows) => {
        const count = await rows.sweepClaims(nowMs - authorityLimits.claimKeptMs);
        if (count >= authorityLimits.claimsKept)
          return refuse("busy", `${count} claims are on record; wait until old ones are forgotten`);
        await rows.saveClaim(row);
        return { ok: true, claim: viewClaim(row), text: claimText(claim) };
      });
    },
    async listClaims(page) {
      const { items, next } = await store.listClaims(page);
      return { items: items.map(viewClaim), next };
    },
    revokeClaim: (id) =>
      store.change(async (rows) => {
        const row = await rows.claim(id);
        if (row === undefined) return refuse("unknown-claim", `no claim ${id}`);
        const claim: ClaimRow = { ...row, state: "revoked" };
        await rows.saveClaim(claim);
        return { ok: true, claim: viewClaim(claim) };
      }),
    decide: (id, state) =>
      store.change(async (rows) => {
        const row = await rows.enrolment(id);
        if (row === undefined) return refuse("unknown-enrolment", `no enrolment ${id}`);
        if (row.state === state) return { ok: true, enrolment: row };
        if (row.state !== "pending")
          return refuse("wrong-state", `the enrolment ${id} was decided: ${row.state}`);
        const taken =
          state === "accepted" ? await takenRefusal(rows, row, row.thumbprint) : undefined;
        if (taken !== undefined) return taken;
        const enrolment: EnrolmentRow = { ...row, state, decidedAtMs: clock.nowMs() };
        await rows.saveEnrolment(enrolment);
        return { ok: true, enrolment };
      }),
  };
}

function viewClaim({ secretDigest: _secret, ...claim }: ClaimRow): ClaimView {
  return claim;
}
