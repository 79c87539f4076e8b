import type { KeyObject, X509Certificate } from "node:crypto";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Random } from "@tributary/proto/host/random.js";
import { readCertificates } from "@tributary/proto/identity/certificate.js";
import { denials, type IsVoid } from "@tributary/proto/identity/denylist.js";
import { makeKey } from "@tributary/proto/identity/keys.js";
import type { TierIdentity } from "@tributary/proto/tier/peer.js";
import type { CloudEvents } from "../events.js";
import type { IdentityStore } from "../store/identities.js";
import { type WatchedKeys, watchKeys } from "./authority.js";
import { serverCertificate } from "./certificates.js";
import { DAY_SECONDS, type IssuingRules } from "./issuing.js";
import { type AuthorityKeys, anchorsOf, authorityFile, chainOf, signerOf } from "./keys.js";
import { authorityLimits } from "./limits.js";

/** What the cloud shows on its listeners, and checks gateways by. */
export type ServerIdentity = TierIdentity & {
  /** When the certificate ends, in milliseconds since 1970. */
  readonly toMs: number;
  /** Looks at once whether keys were rotated, or somebody was revoked. */
  refresh(): Promise<void>;
  close(): void;
};

export type ServerIdentityPorts = {
  readonly dataDir: string;
  readonly store: Pick<IdentityStore, "denials">;
  readonly rules: Pick<IssuingRules, "certificateDays">;
  readonly name: string;
  /** Names and addresses of this machine that stand in the certificate, besides its own loopback ones. */
  readonly hosts: readonly string[];
  readonly clock: Clock;
  readonly random: Random;
  readonly events: CloudEvents;
};

type Shown = {
  readonly keys: AuthorityKeys;
  readonly key: KeyObject;
  readonly leaf: string;
  readonly fromMs: number;
  readonly toMs: number;
};

const LOOPBACK = ["localhost", "127.0.0.1", "::1"];

/**
 * The cloud's own certificate, from the authority that it holds; undefined where none was made. Its key
 * is made anew with each certificate and is in memory only. Renewed at two thirds of its life, and
 * when the authority is rotated. Failures: those of `readAuthorityKeys`.
 */
export async function openServerIdentity(
  ports: ServerIdentityPorts,
): Promise<ServerIdentity | undefined> {
  const watched = await watchKeys(authorityFile(ports.dataDir));
  return watched && serveFrom(watched, ports);
}

async function serveFrom(
  watched: WatchedKeys,
  ports: ServerIdentityPorts,
): Promise<ServerIdentity> {
  const { clock, store, events } = ports;
  const listeners = new Set<() => void>();
  let shown = await show(await watched.current(), ports);
  let trusted = trustOf(shown, clock.nowMs());
  let voided = await store.denials();
  let isVoid: IsVoid = denials({ entries: voided });
  let timer: Timer | undefined;
  let closed = false;

  async function look(): Promise<void> {
    const keys = await watched.current();
    const nowMs = clock.nowMs();
    const listed = await store.denials();
    let changed = JSON.stringify(listed) !== JSON.stringify(voided);
    voided = listed;
    isVoid = denials({ entries: listed });
    const due = shown.fromMs + ((shown.toMs - shown.fromMs) * 2) / 3;
    if (keys.roots.at(-1)?.certificate !== shown.keys.roots.at(-1)?.certificate || nowMs >= due) {
      shown = await show(keys, ports);
      events({ level: "info", name: "server-renewed", endsMs: shown.toMs });
      changed = true;
    }
    const next = trustOf({ ...shown, keys }, nowMs);
    changed ||= next.text !== trusted.text;
    trusted = next;
    if (changed && !closed) for (const listener of listeners) listener();
  }

  let looking: Promise<void> = Promise.resolve();
  /** One at a time: each sees what was changed before it was asked for. */
  const refresh = () => {
    looking = looking.catch(() => undefined).then(look);
    return looking;
  };
  const watch = () => {
    timer = clock.setTimer(authorityLimits.serverLookMs, () => {
      refresh()
        .catch((error: unknown) =>
          events({ level: "error", name: "server-not-renewed", message: String(error) }),
        )
        .finally(() => {
          if (!closed) watch();
        });
    });
  };
  watch();
  return {
    fleet: watched.fleet,
    get key() {
      return shown.key;
    },
    get certificate() {
      return trusted.certificate;
    },
    get anchors() {
      return trusted.anchors;
    },
    get isVoid() {
      return isVoid;
    },
    get toMs() {
      return shown.toMs;
    },
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    refresh,
    close() {
      closed = true;
      timer?.cancel();
    },
  };
}

async function show(keys: AuthorityKeys, ports: ServerIdentityPorts): Promise<Shown> {
  const { clock, random, rules, name, hosts } = ports;
  const now = Math.floor(clock.nowMs() / 1000);
  const key = makeKey("ES256");
  const { certificate, validity } = await serverCertificate(
    { fleet: keys.fleet, name, key },
    [...new Set([...LOOPBACK, ...hosts])],
    signerOf(keys),
    {
      from: now - authorityLimits.backdateSeconds,
      to: now + rules.certificateDays * DAY_SECONDS,
    },
    random,
  );
  const { from, to } = validity;
  return { keys, key, leaf: certificate, fromMs: from * 1000, toMs: to * 1000 };
}

function trustOf({ keys, leaf }: Pick<Shown, "keys" | "leaf">, nowMs: number) {
  const text = anchorsOf(keys, nowMs).join("");
  const anchors: readonly X509Certificate[] = readCertificates(text);
  // The anchors themselves go along: who knows but an anchor's digest, from a claim, finds it there.
  const certificate = [leaf, ...chainOf(keys, nowMs), text].join("");
  return { text, anchors, certificate };
}
