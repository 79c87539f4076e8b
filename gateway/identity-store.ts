import { type KeyObject, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { judgeChain, readCertificates } from "@tributary/proto/identity/certificate.js";
import { type Denylist, judgeDenylist, readDenylist } from "@tributary/proto/identity/denylist.js";
import type { Grant } from "@tributary/proto/identity/grant.js";
import { createKeyring, type Jwks, jwksSchema } from "@tributary/proto/identity/keyring.js";
import { loadKey, makeKey, saveKey } from "@tributary/proto/identity/keys.js";
import { identityLimits } from "@tributary/proto/identity/limits.js";
import { readSecretFile, writeSecretFile } from "@tributary/proto/identity/secret-file.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import type { GatewayIdentity } from "./identity.js";

/** The identity of this gateway itself, which takes what the authority grants it. */
export type OwnIdentity = GatewayIdentity & {
  readonly serial: string;
  /** Keeps what a renewal brought, durably. Throws `grant-malformed` for what is not this gateway's. */
  takeGrant(grant: Grant): Promise<void>;
};

export type Holder = { readonly dataDir: string; readonly gateway: string; readonly site: string };

const fleetSchema = z.strictObject({
  version: z.literal(1),
  fleet: idSchema,
  jwks: jwksSchema,
  /** Those that the denylist which is kept was checked with: its signer may be gone from the others. */
  listJwks: jwksSchema.nullable(),
});
type Fleet = z.infer<typeof fleetSchema>;

const names = {
  key: "key.pem",
  certificate: "certificate.pem",
  anchors: "anchors.pem",
  fleet: "fleet.json",
  denylist: "denylist.jws",
  claim: "claim",
} as const;

/** Where a gateway keeps its identity, and looks for a claim to get one with. */
export function identityFile(dataDir: string, what: keyof typeof names): string {
  return join(dataDir, "identity", names[what]);
}

/** The key of a gateway: made here, once, and never moved. */
export async function ownKey(dataDir: string): Promise<KeyObject> {
  const file = identityFile(dataDir, "key");
  const found = await loadKey(file).catch(missing);
  if (found !== undefined) return found;
  const key = makeKey("ES256");
  await saveKey(file, key);
  return key;
}

/**
 * Reads the identity of a data directory; undefined where nobody enrolled. Failures: those of secret
 * files; `identity-mismatch` when it is another gateway's.
 */
export async function openIdentity(holder: Holder): Promise<OwnIdentity | undefined> {
  const { dataDir } = holder;
  const file = (what: keyof typeof names) => identityFile(dataDir, what);
  // Written last: with it the rest is there.
  const certificate = await readSecretFile(file("certificate")).catch(missing);
  if (certificate === undefined) return undefined;
  const key = await loadKey(file("key"));
  const anchors = await readSecretFile(file("anchors"));
  const fleet = parseFleet(await readSecretFile(file("fleet")), file("fleet"));
  const own = ownOf(certificate, anchors, fleet.fleet, holder);
  const denylistText = await readFile(file("denylist"), "utf8").catch(missing);
  const denylist = denylistText === undefined ? undefined : await keptList(denylistText, fleet);
  return createIdentity(holder, { key, ...own, ...fleet, denylist, denylistText });
}

/** Makes the identity of a gateway that has just enrolled, and keeps it durably. */
export async function keepIdentity(
  holder: Holder,
  fleet: string,
  key: KeyObject,
  grant: Grant,
): Promise<OwnIdentity> {
  const identity = createIdentity(holder, {
    key,
    ...ownOf(chainText(grant), grant.anchors.join(""), fleet, holder),
    fleet,
    jwks: grant.jwks,
    listJwks: null,
    denylist: undefined,
    denylistText: undefined,
  });
  await identity.takeGrant(grant);
  return identity;
}

type Own = {
  readonly certificate: string;
  readonly anchors: readonly X509Certificate[];
  readonly serial: string;
  readonly fromMs: number;
  readonly toMs: number;
};

type State = Own & {
  readonly key: KeyObject;
  readonly fleet: string;
  readonly jwks: Jwks;
  readonly listJwks: Jwks | null;
  readonly denylist: Denylist | undefined;
  readonly denylistText: string | undefined;
};

function createIdentity(holder: Holder, first: State): OwnIdentity {
  const { dataDir, gateway: name, site } = holder;
  const listeners = new Set<() => void>();
  let state = first;
  /** One change at a time, each on what the one before left. */
  let changing: Promise<unknown> = Promise.resolve();
  function inTurn<T>(change: () => Promise<T>): Promise<T> {
    const next = changing.then(change, change);
    changing = next.catch(() => undefined);
    return next;
  }
  const write = (what: keyof typeof names, text: string) =>
    writeSecretFile(identityFile(dataDir, what), text, { replace: true });
  const writeFleet = ({ fleet, jwks, listJwks }: State) =>
    write("fleet", `${JSON.stringify({ version: 1, fleet, jwks, listJwks }, null, 2)}\n`);

  async function takeList(
    text: string,
    before: State,
  ): Promise<Verdict<{ readonly news: boolean; readonly next: State }>> {
    const { fleet, jwks, denylist } = before;
    const read = await readDenylist(text, { fleet, keyring: createKeyring(jwks) });
    if (!read.ok) return read;
    const judged = judgeDenylist(denylist, read.list);
    if (!judged.ok || !judged.news) return judged.ok ? { ...judged, next: before } : judged;
    const next = { ...before, denylist: read.list, denylistText: text, listJwks: jwks };
    // The keys first: a list whose keys are not there could not be read again.
    await writeFleet({ ...next, listJwks: joined(before.listJwks, jwks) });
    await write("denylist", text);
    return { ok: true, news: true, next };
  }

  function become(next: State): void {
    state = next;
    for (const listener of listeners) listener();
  }

  return {
    name,
    site,
    get fleet() {
      return state.fleet;
    },
    get key() {
      return state.key;
    },
    get certificate() {
      return state.certificate;
    },
    get serial() {
      return state.serial;
    },
    get fromMs() {
      return state.fromMs;
    },
    get toMs() {
      return state.toMs;
    },
    get anchors() {
      return state.anchors;
    },
    get jwks() {
      return state.jwks;
    },
    get denylist() {
      return state.denylist;
    },
    get denylistText() {
      return state.denylistText;
    },
    takeDenylist: (text) =>
      inTurn(async () => {
        const taken = await takeList(text, state);
        if (!taken.ok) return taken;
        if (taken.news) become(taken.next);
        return { ok: true, news: taken.news };
      }),
    takeGrant: (grant) =>
      inTurn(async () => {
        const own = ownOf(chainText(grant), grant.anchors.join(""), state.fleet, holder);
        const leaf = new X509Certificate(grant.certificate);
        if (!leaf.checkPrivateKey(state.key)) throw malformed("a certificate for another key");
        let next: State = { ...state, ...own, jwks: grant.jwks };
        await write("anchors", grant.anchors.join(""));
        await writeFleet(next);
        // One that is older than what another way brought is no reason to refuse the rest.
        const taken = await takeList(grant.denylist, next);
        if (taken.ok) next = taken.next;
        await write("certificate", own.certificate);
        become(next);
      }),
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

function chainText({ certificate, chain }: Grant): string {
  return [certificate, ...chain].map((pem) => `${pem.trim()}\n`).join("");
}

/** Reads the own certificate. Its dates are not judged: whoever renews it looks at them. */
function ownOf(certificate: string, anchorText: string, fleet: string, holder: Holder): Own {
  const shown = readCertificates(certificate);
  const anchors = readCertificates(anchorText);
  const [leaf] = shown;
  const fromMs = Date.parse(leaf?.validFrom ?? "");
  const judged = judgeChain(shown, { anchors, fleet, use: "client", nowMs: fromMs });
  if (!judged.ok) throw malformed(judged.message);
  const { subject, serial, toMs } = judged.certified;
  const { gateway, site } = holder;
  if (subject.kind !== "gateway" || subject.name !== gateway || subject.site !== site) {
    const whose = `${subject.kind} ${subject.name}${"site" in subject ? ` of ${subject.site}` : ""}`;
    throw new TributaryError(
      "identity-mismatch",
      `the certificate in ${identityFile(holder.dataDir, "certificate")} is for the ${whose}, and this is the gateway ${gateway} of ${site}`,
    );
  }
  return { certificate, anchors, serial, fromMs, toMs };
}

function malformed(why: string): TributaryError {
  return new TributaryError("grant-malformed", `the authority's answer cannot be used: ${why}`);
}

/** Both sets' keys, each once. */
function joined(a: Jwks | null, b: Jwks): Jwks {
  const known = new Set(b.keys.map(({ kid }) => kid));
  const more = (a?.keys ?? []).filter(({ kid }) => !known.has(kid));
  return { keys: [...b.keys, ...more].slice(0, identityLimits.publicKeys) };
}

async function keptList(text: string, { fleet, jwks, listJwks }: Fleet): Promise<Denylist> {
  const keyring = createKeyring(joined(listJwks, jwks));
  const read = await readDenylist(text, { fleet, keyring });
  // To go on without it would let in whom it shuts out.
  if (!read.ok)
    throw new TributaryError("secret-malformed", `the denylist that is kept: ${read.message}`);
  return read.list;
}

function parseFleet(text: string, file: string): Fleet {
  try {
    return fleetSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new TributaryError("secret-malformed", `${file} does not hold what it should`, { cause });
  }
}

function missing(cause: unknown): undefined {
  const { code } = cause as { code?: string };
  if (code === "secret-missing" || code === "ENOENT") return undefined;
  throw cause;
}
