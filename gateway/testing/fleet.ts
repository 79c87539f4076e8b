import { systemClock } from "@tributary/proto/host/clock.js";
import {
  type Denylist,
  judgeDenylist,
  readDenylist,
  signDenylist,
} from "@tributary/proto/identity/denylist.js";
import { createKeyring } from "@tributary/proto/identity/keyring.js";
import { makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import { listenGrpc } from "@tributary/proto/tier/grpc-server.js";
import { createBroker } from "../broker.js";
import type { GatewayParts } from "../gateway.js";
import type { GatewayIdentity } from "../identity.js";
import { createUpstream } from "../upstream.js";

/** A fleet's issuer, and what its gateways make of its lists; nothing of it is on a disk. */
export type TestFleet = {
  list(sequence: number, ...entries: Denylist["entries"]): Promise<string>;
  identity(name: string): GatewayIdentity & {
    /** Something else of it has changed: its certificate was renewed. */
    changed(): void;
  };
};

export function createTestFleet(fleet = "press-works"): TestFleet {
  const issuer = { kid: "k1", key: makeKey("EdDSA") };
  const jwk = publicJwk(issuer.key);
  if (jwk.kty !== "OKP") throw new Error("an Ed25519 key");
  const jwks = { keys: [{ ...jwk, kid: "k1", alg: "EdDSA" as const, use: "sig" as const }] };
  const keyring = createKeyring(jwks);
  return {
    list: (sequence, ...entries) =>
      signDenylist({ fleet, sequence, issuedAt: sequence, entries }, issuer),
    identity(name) {
      const listeners = new Set<() => void>();
      let held: { readonly list: Denylist; readonly text: string } | undefined;
      return {
        fleet,
        name,
        site: "plant",
        key: makeKey("ES256"),
        certificate: "",
        fromMs: 0,
        toMs: Date.UTC(2100, 0),
        anchors: [],
        jwks,
        get denylist() {
          return held?.list;
        },
        get denylistText() {
          return held?.text;
        },
        async takeDenylist(text) {
          const read = await readDenylist(text, { fleet, keyring });
          if (!read.ok) return read;
          const judged = judgeDenylist(held?.list, read.list);
          if (!judged.ok || !judged.news) return judged;
          held = { list: read.list, text };
          for (const listener of listeners) listener();
          return judged;
        },
        changed() {
          for (const listener of listeners) listener();
        },
        onChange(listener) {
          listeners.add(listener);
          return () => listeners.delete(listener);
        },
      };
    },
  };
}

/** A gateway of a fleet whose links are plain: what is tested goes over them, and is not about them. */
export function plainLinks(identity: GatewayIdentity, upstream: string): Partial<GatewayParts> {
  return {
    identity,
    upstream: createUpstream(upstream, systemClock()),
    listenDownstream: (service, address, clock, events) =>
      listenGrpc(service, address, clock, events),
    broker: ({ site, handlers, clock }) => createBroker({ site, handlers, clock }),
  };
}
