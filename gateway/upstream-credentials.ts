import type { Socket } from "node:net";
import { CallCredentials, ChannelCredentials } from "@grpc/grpc-js";
import { denials } from "@tributary/proto/identity/denylist.js";
import type { TierIdentity } from "@tributary/proto/tier/peer.js";
import type { GatewayIdentity } from "./identity.js";
import { checkServer, type Expected, secure } from "./secure-connection.js";

/** What the channel to the upstream is made with: this gateway's own way of opening TLS on a socket. */
class GatewayCredentials extends ChannelCredentials {
  readonly #identity: GatewayIdentity;
  readonly #expected: Expected;
  readonly #host: string;
  readonly #nowMs: () => number;

  constructor(identity: GatewayIdentity, expected: Expected, host: string, nowMs: () => number) {
    super();
    this.#identity = identity;
    this.#expected = expected;
    this.#host = host;
    this.#nowMs = nowMs;
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(_target: unknown, _options: unknown, calls?: CallCredentials) {
    return {
      connect: async (socket: Socket) => {
        // Read at each connection: both are renewed while the process runs.
        const show = this.#identity;
        const check = checkServer(show, this.#expected, this.#nowMs);
        return {
          socket: await secure(socket, this.#host, { check, show, protocol: "h2" }),
          secure: true,
        };
      },
      waitForReady: () => Promise.resolve(),
      getCallCredentials: () => calls ?? CallCredentials.createEmpty(),
      destroy() {},
    };
  }
}

/** Shows this gateway's certificate to the upstream, and takes none but the one that is meant. */
export function upstreamCredentials(
  identity: GatewayIdentity,
  expected: Expected,
  host: string,
  nowMs: () => number,
): ChannelCredentials {
  return new GatewayCredentials(identity, expected, host, nowMs);
}

const nobody = { entries: [] };

/** The identity as the side that serves gateways below has it. */
export function tierIdentityOf(identity: GatewayIdentity): TierIdentity {
  let read = identity.denylist;
  let isVoid = denials(read ?? nobody);
  return {
    fleet: identity.fleet,
    get key() {
      return identity.key;
    },
    get certificate() {
      return identity.certificate;
    },
    get anchors() {
      return identity.anchors;
    },
    get isVoid() {
      if (read !== identity.denylist) {
        read = identity.denylist;
        isVoid = denials(read ?? nobody);
      }
      return isVoid;
    },
    onChange: identity.onChange,
  };
}
