import { type Clock, systemClock } from "@tributary/proto/host/clock.js";
import { type Disk, nodeDisk } from "@tributary/proto/host/disk.js";
import { acquireLock } from "@tributary/proto/host/lock.js";
import { type Random, systemRandom } from "@tributary/proto/host/random.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import { createAttachments } from "@tributary/proto/tier/attach.js";
import { listenGrpc } from "@tributary/proto/tier/grpc-server.js";
import { createInbox } from "@tributary/proto/tier/inbox.js";
import { createService } from "@tributary/proto/tier/service.js";
import { SPOOL_FOLDER } from "@tributary/proto/tier/spool.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type Access, createAccess, openAccess } from "./access/access.js";
import { createProvider } from "./access/oidc.js";
import type { AccessPorts } from "./access/ports.js";
import { createProjects } from "./access/projects.js";
import { openAlarms } from "./alarms.js";
import { startApi } from "./api/server.js";
import { type Audit, createAudit } from "./audit/audit.js";
import { watchKeyChanges } from "./audit/key-watch.js";
import { type Authority, openAuthority } from "./authority/authority.js";
import { openServerIdentity, type ServerIdentity } from "./authority/server-identity.js";
import { deviceKeys } from "./challenge-keys.js";
import { failedChallenge } from "./challenge-line.js";
import { warrants } from "./challenge-warrant.js";
import { createChallenges } from "./challenges.js";
import { type CloudConfig, plainListeners } from "./config.js";
import { createDenylistSpread, type DenylistSpread } from "./denylist.js";
import { openEnrolledPlaces, placedDevices } from "./device-places.js";
import { createDevices } from "./devices.js";
import type { CloudEvent, CloudEvents } from "./events.js";
import { createFleetRecord, loadFleet } from "./fleet-record.js";
import { createGateways } from "./gateways.js";
import { createModels, type Models } from "./models.js";
import { createPackages } from "./packages/packages.js";
import type { Sessions } from "./session-view.js";
import { openSessions } from "./sessions.js";
import { openStore, type SqlStore } from "./store/open.js";
import type { Store } from "./store/store.js";

export type CloudOptions = {
  readonly config: CloudConfig;
  readonly softwareVersion: string;
  readonly events: CloudEvents;
  /** Parts that tests replace. */
  readonly clock?: Clock;
  readonly random?: Random;
  readonly disk?: Disk;
  readonly store?: Store;
  readonly listenGrpc?: typeof listenGrpc;
  readonly startApi?: typeof startApi;
};

/** A running cloud. */
export type Cloud = {
  readonly grpcPort: number;
  readonly httpPort: number;
  readonly sessions: Sessions;
  readonly models: Models;
  readonly store: Store;
  close(): Promise<void>;
};

/**
 * Composes the cloud in the order the data flows, and resolves once both listeners are up and every
 * session that ran goes on. Failures: those of its parts; what was opened before is closed again.
 */
export async function createCloud(options: CloudOptions): Promise<Cloud> {
  const { config, softwareVersion } = options;
  const clock = options.clock ?? systemClock();
  const random = options.random ?? systemRandom();
  const disk = options.disk ?? nodeDisk(config.dataDir);
  const teardown: (() => Promise<unknown>)[] = [];
  const close = async () => {
    let failure: unknown;
    for (let undo = teardown.pop(); undo !== undefined; undo = teardown.pop())
      await undo().catch((error: unknown) => {
        failure ??= error;
      });
    if (failure !== undefined) throw failure;
  };
  try {
    // A disk and a store that are passed in are the caller's.
    if (options.disk === undefined || options.store === undefined) {
      const lock = await acquireLock(config.dataDir);
      teardown.push(() => lock.release());
    }
    const own = options.store === undefined ? await openOwnStore(config) : undefined;
    const store = options.store ?? own;
    if (store === undefined) throw new Error("a store was opened or given");
    teardown.push(() => store.close());
    const models = createModels(disk, store, random);
    await models.sweep();
    const packages = own && createPackages(disk, own.packages);
    await packages?.sweep();
    await disk.remove(SPOOL_FOLDER);

    const fleet = await loadFleet(store);
    const gateways = createGateways(clock, fleet.gateways);
    const devices = createDevices(clock, fleet.devices);
    const record = createFleetRecord(store, clock, gateways, devices, options.events);
    teardown.push(() => record.close());
    const alarms = await openAlarms(store, clock);
    const places = own && (await openEnrolledPlaces(own.identities));
    let identity: ServerIdentity | undefined;
    let spread: DenylistSpread | undefined;
    const events = (event: CloudEvent) => {
      options.events(event);
      record.record(event);
      alarms.note(event);
      places?.note(event);
      if (event.name === "revoked") shutOut().catch(identityFailed);
    };
    const audit = own && createAudit(own.audit, clock, events);
    if (audit !== undefined) teardown.push(() => audit.close());
    /** Whoever was revoked comes in no more before who is connected is cut off. */
    const shutOut = async () => {
      await identity?.refresh();
      await spread?.changed();
    };
    const identityFailed = (error: unknown) =>
      options.events({ level: "error", name: "server-not-renewed", message: String(error) });

    // In the clear nobody shows who he is: then there is nothing to hold a report to.
    const shown = () => (identity === undefined || config.grpc.plain ? undefined : places);
    const attachments = createAttachments({
      clock,
      gateways,
      devices: placedDevices(devices, shown, events),
      events,
      upstream: "cloud",
      above: () => [],
      nowMs: () => clock.nowMs(),
      trust: () => spread?.keeper,
      heartbeatIntervalMs: config.heartbeatIntervalMs,
      heartbeatMissedMs: config.heartbeatMissedMs,
    });
    const kernel = loadKernel();
    const projects = own && (await createProjects({ store: own.access, clock, random }));
    const sessions = await openSessions({
      clock,
      random,
      disk,
      kernel,
      store,
      models,
      packages,
      gateways,
      devices,
      projects,
      links: attachments.links,
      events,
    });
    teardown.push(() => sessions.close());
    const challenges =
      own &&
      createChallenges({
        isSigned: () => authority !== undefined,
        rules: config.challenges,
        kernel,
        random,
        clock,
        wholeRound: (id) => store.wholeRound(id),
        keysOf: deviceKeys(own.identities),
        warrant: warrants(config.dataDir, clock),
        send: attachments.links.send,
        events,
        async onEnded(challenge) {
          const { session, state } = challenge;
          const project = sessions.sessions.status(session)?.params.project;
          if (state === "failed") await audit?.done(failedChallenge(challenge, project));
        },
      });
    teardown.push(async () => challenges?.close());
    const { destination } = sessions;
    const inbox = createInbox(disk, clock, challenges?.watch(destination) ?? destination);
    teardown.push(() => inbox.close());
    await sessions.resumeAll();

    const authority =
      own &&
      (await openAuthority({
        dataDir: config.dataDir,
        store: own.identities,
        clock,
        random,
        rules: config.authority,
        events,
      }));
    if (own !== undefined && authority !== undefined) {
      const failed = (error: unknown) =>
        events({ level: "error", name: "audit-failed", action: "keys", message: String(error) });
      const keyWatch = await watchKeyChanges({ authority, store: own.audit, clock, failed });
      teardown.push(async () => keyWatch.close());
    }
    if (authority !== undefined) {
      spread = await createDenylistSpread({ authority, attachments, gateways, clock, events });
      teardown.push(async () => spread?.close());
    }
    if (own !== undefined)
      identity = await openServerIdentity({
        dataDir: config.dataDir,
        store: own.identities,
        rules: config.authority,
        name: config.name,
        hosts: config.hosts,
        clock,
        random,
        events,
      });
    teardown.push(async () => identity?.close());
    const plain = plainListeners(config, authority !== undefined);
    if (config.insecure && plain.length > 0) events(insecureEvent(config, plain));
    const service = createService({
      clock,
      answerChallenge: challenges?.answer,
      enrol: authority && ((request, claim) => passOn(authority, audit, request, claim)),
      attachments,
      members: sessions.members,
      inbox,
      events,
      async openModel(model, digest) {
        const row = await store.model(model);
        if (row?.digest === digest) return models.open(digest);
        return packages?.open(model, digest);
      },
    });
    const grpc = await (options.listenGrpc ?? listenGrpc)(
      service,
      config.grpc,
      clock,
      events,
      identity === undefined || plain.includes("grpc")
        ? undefined
        : { identity, nowMs: clock.nowMs },
    );
    teardown.push(() => {
      attachments.close();
      return grpc.close();
    });
    const api = await (options.startApi ?? startApi)(config.http, {
      sessions: sessions.sessions,
      authority,
      denylist: spread,
      alarms,
      challenges: authority && challenges,
      identity: plain.includes("http") ? undefined : identity,
      access: accessOf(
        config,
        own && projects && { store: own.access, clock, random, projects },
        authority,
        events,
      ),
      audit,
      store,
      models,
      packages: packages && own && { code: packages, store: own.packages },
      clock,
      events,
      version: softwareVersion,
    }).catch((cause: unknown) => {
      throw listenFailure(config.http, cause);
    });
    teardown.push(() => api.close());
    const httpPort = api.port;
    events({ level: "info", name: "cloud-started", grpcPort: grpc.port, httpPort });
    return {
      grpcPort: grpc.port,
      httpPort,
      sessions: sessions.sessions,
      models,
      store,
      async close() {
        await close();
        options.events({ level: "info", name: "cloud-stopped" });
      },
    };
  } catch (error) {
    await close().catch(() => undefined);
    throw error;
  }
}

/** Who is enrolled, who may do what and who did is kept in a store of one's own alone. */
function openOwnStore({ dataDir, store: { url } }: CloudConfig): Promise<SqlStore> {
  return openStore({ dataDir, url });
}

/** Tokens are asked for where there is an authority; without one the API is open, and says so. */
function accessOf(
  { access: { provider } }: CloudConfig,
  ports: Omit<AccessPorts, "authority" | "provider"> | undefined,
  authority: Authority | undefined,
  events: CloudEvents,
): Access {
  if (ports === undefined) return openAccess();
  if (authority !== undefined)
    return createAccess({ ...ports, authority, provider: provider && createProvider(provider) });
  if (provider !== undefined)
    throw new TributaryError(
      "config-invalid",
      "access.provider: without an authority nobody is asked for a token; make one with `tributary cloud init`",
    );
  events({ level: "warn", name: "access-open" });
  return openAccess(ports.projects);
}

/** A signing request that came over the tier link. */
function passOn(
  authority: Authority,
  audit: Audit | undefined,
  request: string,
  claim: string | undefined,
) {
  const ask = () =>
    claim === undefined ? authority.renew(request) : authority.enrol(claim, request);
  const action = claim === undefined ? "renew by a gateway" : "enrol by a gateway";
  return audit?.follow({ actor: "newcomer", action, target: "enrolments" }, ask) ?? ask();
}

function insecureEvent(config: CloudConfig, plain: readonly ("grpc" | "http")[]): CloudEvent {
  const places = plain.map((one) => `${one} on ${config[one].host}`).join(" and ");
  const message = `in the clear, for anybody on the network to read and change: ${places}`;
  return { level: "warn", name: "insecure", message };
}

function listenFailure({ host, port }: CloudConfig["http"], cause: unknown): unknown {
  if ((cause as NodeJS.ErrnoException).syscall !== "listen") return cause;
  const why = cause instanceof Error ? cause.message : String(cause);
  const message = `cannot listen on ${host}:${port}: ${why}`;
  return new TributaryError("port-in-use", message, { cause });
}
