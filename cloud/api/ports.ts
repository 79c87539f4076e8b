import type { IncomingMessage, ServerResponse } from "node:http";
import type { Clock } from "@tributary/proto/host/clock.js";
import type { TierIdentity } from "@tributary/proto/tier/peer.js";
import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import type { Access } from "../access/access.js";
import type { Alarms } from "../alarms.js";
import type { Audit } from "../audit/audit.js";
import type { Authority } from "../authority/authority.js";
import type { Challenges } from "../challenges.js";
import type { DenylistSpread } from "../denylist.js";
import type { CloudEvents } from "../events.js";
import type { Models } from "../models.js";
import type { Sessions } from "../session-view.js";
import type { Store } from "../store/store.js";
import type { PackagePorts } from "./packages.js";

/** The parts of the cloud that the API speaks for. */
export type ApiPorts = {
  readonly sessions: Sessions;
  /** The fleet's, where one was made. */
  readonly authority?: Authority | undefined;
  /** Where there is an authority. */
  readonly challenges?: Challenges | undefined;
  /** What somebody should look at; undefined where nobody notes it. */
  readonly alarms?: Alarms | undefined;
  /** How far the fleet's denylist has come, where there is an authority. */
  readonly denylist?: DenylistSpread | undefined;
  readonly access: Access;
  /** Undefined where the store is not SQL. */
  readonly audit?: Audit | undefined;
  /** What the API shows over TLS; undefined where it listens in the clear. */
  readonly identity?: TierIdentity | undefined;
  readonly store: Store;
  readonly models: Models;
  /** Undefined where the store is not SQL. */
  readonly packages?: PackagePorts | undefined;
  readonly clock: Clock;
  readonly events: CloudEvents;
  /** Of this build, as shown by /health and the OpenAPI document. */
  readonly version: string;
};

/** The server, with routes typed by their zod schemas. */
export type Api = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  ZodTypeProvider
>;
