import { join } from "node:path";
import { type Clock, systemClock } from "@tributary/proto/host/clock.js";
import { type Disk, nodeDisk } from "@tributary/proto/host/disk.js";
import { acquireLock } from "@tributary/proto/host/lock.js";
import { type Random, systemRandom } from "@tributary/proto/host/random.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import { limits as tier } from "@tributary/proto/tier/limits.js";
import { createAncestry } from "./ancestry.js";
import { askEitherWay, askUpstream } from "./ask-authority.js";
import { openBallast } from "./ballast.js";
import { type BrokerOptions, createBroker, type DeviceLink } from "./broker.js";
import { bufferBudgets } from "./budgets.js";
import { buildDateMs } from "./build-date.js";
import { createChallenges } from "./challenges.js";
import { authorityPlaceOf, type GatewayConfig } from "./config.js";
import { createDeviceAccess } from "./device-access.js";
import { openCutGrace } from "./device-access-grace.js";
import { createDeviceEnrol } from "./device-enrol.js";
import { createDeviceRegistry } from "./devices.js";
import { type Downstream, type DownstreamOptions, openDownstream } from "./downstream.js";
import { createDrops } from "./drops.js";
import type { GatewayEvents } from "./events.js";
import { checkHealth, type HealthFault } from "./health.js";
import type { GatewayIdentity } from "./identity.js";
import { fullIdleOf } from "./idle.js";
import { createInbound } from "./inbound.js";
import { refuseDamagedIndex } from "./index-files.js";
import { createIngest, type Ingest } from "./ingest.js";
import { limits } from "./limits.js";
import { type Models, openModels } from "./models.js";
import { openOutbox } from "./outbox.js";
import { openSecurity, ownIdentity, wayUp } from "./own-identity.js";
import { createParts, type Parts } from "./parts.js";
import { createPublications } from "./publications.js";
import { createRate } from "./rate.js";
import { createRenewal } from "./renewal.js";
import { adviseRepair, refuseLostIndex } from "./repair-advice.js";
import { createReplies } from "./replies.js";
import { createReport } from "./report.js";
import { createRounds, type Rounds } from "./rounds.js";
import { createShipping, type Shipping } from "./shipping.js";
import { openShutOut } from "./shut-out.js";
import { openSignedUpdates } from "./signed-updates.js";
import { openSiteTime, type SiteTime } from "./site-time.js";
import { viewStatus } from "./status.js";
import { type FillRate, openFillRate } from "./status-rate.js";
import { createStatusRecord } from "./status-record.js";
import { viewRounds } from "./status-rounds.js";
import { openStatusPage } from "./status-server.js";
import type { StatusView } from "./status-view.js";
import { createStorage, type Storage } from "./storage.js";
import { type Database, openStore } from "./store.js";
import { openTelemetry, type Telemetry } from "./telemetry.js";
import { createUplink, type Uplink, type UplinkFacts } from "./uplink.js";
import { createUpstream, type Upstream } from "./upstream.js";
import { tierIdentityOf } from "./upstream-credentials.js";
import { watchWrites } from "./watched-disk.js";
import { createWindows, type Windows, whileOpen, windowTimeMs } from "./windows.js";

export type Gateway = {
  /** The port on which the broker listens. */
  readonly mqttPort: number;
  /** The port on which gateways below attach, if it has any. */
  readonly downstreamPort: number | undefined;
  readonly incarnation: string;
  /** Of the status page; undefined where there is none. */
  readonly statusPort: number | undefined;
  status(): StatusView;
  /** What is not well of what new software has to show before it is kept; nothing when all is. */
  health(): Promise<readonly HealthFault[]>;
  /** Rejects with `gateway-loop` when it turns out to be above itself before it ever reached the root. */
  readonly failed: Promise<never>;
  close(): Promise<void>;
};

/** Parts of the world that a test may put in place of the real ones. */
export type GatewayParts = {
  readonly clock: Clock;
  readonly random: Random;
  /** Files under `dataDir`. */
  readonly disk: Disk;
  /** Makes the index's database. With `disk` it leaves nothing in `dataDir`, and no lock is taken there. */
  readonly database: (path: string) => Database;
  readonly kernel: Kernel;
  readonly upstream: Upstream;
  readonly listenDownstream: DownstreamOptions["listen"];
  readonly broker: (options: BrokerOptions) => Promise<DeviceLink>;
  readonly identity: GatewayIdentity;
};

export type GatewayOptions = {
  readonly config: GatewayConfig;
  readonly softwareVersion: string;
  readonly events: GatewayEvents;
  /** Called once the site's time is known, for stamps of events. */
  readonly onTime?: (time: SiteTime) => void;
  readonly parts?: Partial<GatewayParts>;
};

/**
 * Composes the pipeline: broker -> admit -> ingest -> combine -> outbox -> uplink. What stands
 * further down is made first, as data flows into what is there.
 */
export async function createGateway(options: GatewayOptions): Promise<Gateway> {
  const { config, parts = {} } = options;
  const { gateway, site, dataDir, reconnect: backoff } = config;
  const clock = parts.clock ?? systemClock();
  const startedMs = clock.monotonicMs();
  const record = createStatusRecord(clock);
  let fillRate: FillRate | undefined;
  const events: GatewayEvents = (event) => {
    record.note(event);
    if (event.name === "partial-delivered") fillRate?.left(event.bytes);
    telemetry?.note(event);
    options.events(event);
  };
  const random = parts.random ?? systemRandom();
  const bareDisk = parts.disk ?? nodeDisk(dataDir);
  let storage: Storage | undefined;
  let telemetry: Telemetry | undefined;
  const disk = watchWrites(bareDisk, (cause) => storage?.writeFailed(cause));
  const kernel = parts.kernel ?? loadKernel();

  const ballast = await openBallast(bareDisk, random, config.ballastBytes);
  const teardown: (() => Promise<void> | void)[] = [];
  if (parts.disk === undefined || parts.database === undefined) {
    const lock = await acquireLock(dataDir);
    teardown.push(() => lock.release());
  }
  /** All of it, whatever fails on the way. */
  async function close(): Promise<void> {
    const failures: unknown[] = [];
    for (const step of teardown.splice(0).reverse()) {
      try {
        await step();
      } catch (cause) {
        failures.push(cause);
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  try {
    const isWhole = parts.identity === undefined && parts.disk === undefined;
    const own = isWhole ? await ownIdentity(config, { clock, random, events }) : undefined;
    const identity = parts.identity ?? own;
    const security = openSecurity(config, identity, events);
    if (parts.database === undefined) {
      await refuseLostIndex(disk, dataDir);
      await refuseDamagedIndex(join(dataDir, "index"));
    }
    const store = await openStore({
      rescue: { failed: (cause) => storage?.writeFailed(cause), makeRoom: ballast.release },
      path: join(dataDir, "index"),
      newIncarnation: () => random.id(16),
      ledgerRounds: limits.ledgerRounds,
      receivedPartials: limits.receivedPartials,
      expiries: limits.expiries,
      ...(parts.database && { database: parts.database }),
    });
    teardown.push(() => store.close());
    const time = await openSiteTime({ store, clock, events, buildDateMs });
    teardown.push(() => time.close());
    options.onTime?.(time);
    const outbox = await openOutbox(disk, store, time, events);
    teardown.push(() => outbox.close());

    const upstream =
      parts.upstream ?? createUpstream(config.upstream, clock, wayUp(config, identity, time));
    teardown.push(() => upstream.close());
    // Made below; what is above them calls them only once all stand.
    let uplink: Uplink | undefined;
    let windows: Windows | undefined;
    let ingest: Ingest | undefined;
    let modelParts: Parts | undefined;
    let openedRounds: Rounds | undefined;
    let downstream: Downstream | undefined;
    const ancestry = createAncestry(clock);
    const attached = () => uplink?.attached ?? false;

    const ask = askUpstream(upstream, attached);
    const renewal =
      own &&
      createRenewal({
        identity: own,
        ask: askEitherWay(ask, authorityPlaceOf(config), own, time.nowMs),
        nowMs: time.nowMs,
        clock,
        random,
        events,
      });
    teardown.push(() => renewal?.close());

    const rate = createRate(config.uplink.bytesPerSecond, clock);
    const budgets = bufferBudgets(config);
    const notes = await openTelemetry({
      disk,
      store,
      random,
      budgets,
      send: (message) => uplink?.telemetry(message) ?? false,
      sample: () => report.sample(),
      writable: () => storage?.state === "ok",
      rate,
      clock,
      nowMs: time.nowMs,
    });
    telemetry = notes;
    teardown.push(() => notes.close());
    const shipping: Shipping = createShipping({
      gateway,
      incarnation: store.incarnation,
      outbox,
      upstream,
      attached,
      rate,
      events,
      clock,
      random,
      backoff,
    });
    teardown.push(() => shipping.close());
    teardown.push(() => rate.close());

    const models: Models = await openModels({
      disk,
      store,
      upstream: {
        fetchModel: (request) =>
          whileOpen(upstream.fetchModel(request), () => windows?.open ?? true),
      },
      attached,
      cacheBytes: config.modelCacheBytes,
      onProgress(digest) {
        modelParts?.progressed(digest);
        downstream?.modelProgressed(digest);
        openedRounds?.modelProgressed(digest);
      },
      events,
      clock,
      time,
      random,
      backoff,
    });
    teardown.push(() => models.close());

    const devices = createDeviceRegistry((change) => {
      if (change.type === "joined") downstream?.roll.arrivedHere(change.device);
      else if (downstream?.roll.placeOf(change.device) !== undefined) return; // it is below now
      uplink?.deviceChanged(change);
    });
    const inbound = createInbound();
    const grace = identity && (await openCutGrace({ store, nowMs: time.nowMs, clock }));
    teardown.push(() => grace?.close());
    const link = await (parts.broker ?? createBroker)({
      site,
      handlers: inbound.handlers,
      clock,
      ...(identity &&
        grace && {
          identity,
          admission: createDeviceAccess({
            identity,
            nowMs: time.nowMs,
            spares: grace.spares,
          }),
        }),
    });
    const drops = createDrops(clock, events);
    teardown.push(() => drops.close());
    teardown.push(() => link.close());
    const replies = createReplies(link, events, config.retryAfterMs);
    const shutOut =
      identity &&
      (await openShutOut({
        identity,
        dataDir: parts.disk === undefined ? dataDir : undefined,
        store,
        time,
        link,
        replies,
        downstream: () => downstream,
        onHeld: () => uplink?.trustChanged(),
        events,
        clock,
      }));
    teardown.push(() => shutOut?.close());
    const denylist = shutOut?.denylist;
    const publications = await createPublications({ store, models, link, events });

    // Without an identity nobody shows a key that a signature could be checked with.
    const signed =
      identity &&
      (await openSignedUpdates({
        ...config.signedUpdates,
        disk,
        fits: (bytes) => kept.fits(bytes),
        logicalMs: () => time.logicalMs(),
        events,
      }));
    teardown.push(() => signed?.close());

    const rounds: Rounds = await createRounds({
      gateway,
      site,
      absentGraceMs: config.absentGraceMs,
      modelCacheBytes: config.modelCacheBytes,
      disk,
      store,
      kernel,
      outbox: {
        add: (partial, sealed, contributors, rules) =>
          outbox.add(
            partial,
            sealed,
            contributors,
            downstream?.forwarding(partial, rules) ?? rules,
          ),
        handOver: (partial, round, first, rules) =>
          outbox.handOver(partial, round, first, downstream?.forwarding(partial, rules) ?? rules),
      },
      models,
      link,
      present: function* () {
        for (const [device] of devices.list()) yield device;
      },
      uploading: () => ingest?.uploading ?? 0,
      // Where a gateway above is cut off this one is, too, as far as its rounds go.
      attached: () => attached() && ancestry.whole,
      onSealing(round) {
        ingest?.endRound(round);
        signed?.sealed(round);
      },
      onProgress: (progress) => (downstream?.branches.ownProgress ?? uplink?.progress)?.(progress),
      onPartial: () => shipping.kick(),
      onPlanRefused: (round, refusal) =>
        (downstream?.branches.ownRefused ?? uplink?.planRefused)?.(round, refusal),
      events,
      clock,
      time,
      random,
    });
    openedRounds = rounds;
    teardown.push(() => rounds.close());

    const usedBytes = () => outbox.bytes + rounds.journalBytes;
    storage = await createStorage({
      disk,
      store,
      outbox,
      telemetry: notes,
      use: { usedBytes, promisedBytes: () => rounds.promisedBytes },
      budgets,
      reserveDiskBytes: config.reserveDiskBytes,
      ballast,
      clock,
      events,
    });
    const kept = storage;
    teardown.push(() => kept.close());
    const filling = await openFillRate({ store, time, clock, usedBytes, events });
    fillRate = filling;
    teardown.push(() => filling.close());
    ingest = createIngest({
      gateway,
      uploadSlots: config.uploadSlots,
      uploadIdleMs: config.uploadIdleMs,
      retryAfterMs: config.retryAfterMs,
      rounds,
      storage: kept,
      keyOf: inbound.keyOf,
      ...(signed && { keepSigned: signed.keep }),
      onClipped: (round, device, norm, clipNorm) =>
        events({ level: "info", name: "update-clipped", round, device, norm, clipNorm }),
      replies,
      clock,
    });
    teardown.push(() => ingest?.close());
    modelParts = createParts({ models, recover: publications.recover, link, replies, clock });
    teardown.push(() => modelParts?.close());

    if (config.downstream !== undefined) {
      downstream = await openDownstream({
        config: { ...config, downstream: config.downstream },
        disk,
        store,
        outbox,
        storage: kept,
        models,
        publications,
        rounds,
        telemetry: notes.below,
        above: ancestry.above,
        trust: () => denylist?.keeper,
        security: identity && { identity: tierIdentityOf(identity), nowMs: time.nowMs },
        enrol: identity && ((request, claim) => ask(claim ?? "", request)),
        async answerChallenge(messages) {
          if (upstream.answerChallenge === undefined) return { ok: true, taken: 0 };
          return { ok: true, taken: await upstream.answerChallenge(messages) };
        },
        onDeviceChange: (change) => uplink?.deviceChanged(change),
        onProgress: (progress) => uplink?.progress(progress),
        onPlanRefused: (round, refusal) => uplink?.planRefused(round, refusal),
        onPartial: () => shipping.kick(),
        events,
        clock,
        time,
        ...(parts.listenDownstream && { listen: parts.listenDownstream }),
      });
      teardown.push(() => downstream?.close());
      const { port } = downstream;
      events({ level: "info", name: "downstream-started", gateway, port });
    }
    const running = downstream?.branches ?? rounds;
    const openRounds = () => [...rounds.openRounds(), ...(downstream?.branches.openRounds() ?? [])];

    const report = createReport({
      budgetBytes: config.budgetBytes,
      storage: kept,
      outbox,
      connectedDevices: () => devices.count + (downstream?.roll.deviceCount ?? 0),
      replies: () => replies.counts,
      attached,
      roundTripMs: () => uplink?.roundTripMs,
      clockOffsetMs: () => time.offsetMs,
    });
    const facts: UplinkFacts = {
      hello: () => ({
        gateway,
        site,
        incarnation: store.incarnation,
        softwareVersion: options.softwareVersion,
        rounds: [...new Set([...openRounds(), ...outbox.rounds()])].slice(0, tier.helloRounds),
        below: downstream?.roll.names() ?? [],
        nowMs: BigInt(Math.round(clock.nowMs())),
      }),
      *devices() {
        for (const entry of devices.list()) {
          if (downstream?.roll.placeOf(entry[0]) === undefined) yield entry;
        }
        yield* downstream?.roll.list() ?? [];
      },
      progress: () => running.progress(),
      heartbeat: report.heartbeat,
      trustHeld: () => denylist?.held(),
    };
    const challenges = createChallenges({
      signed,
      upstream,
      identity,
      passOn: (challenge) => downstream?.challenge(challenge),
      events,
    });
    teardown.push(() => challenges.close());
    uplink = createUplink({
      upstream,
      facts,
      handlers: {
        onTime: time.hear,
        onAttached() {
          renewal?.kick();
          models.kick();
          shipping.kick();
          telemetry?.attached();
        },
        onPath(path) {
          const { whole } = ancestry;
          ancestry.heard(path);
          grace?.linked(ancestry.whole);
          events({ level: "info", name: "uplink-path", path: path.join(" < ") });
          downstream?.pathChanged();
          if (!whole && ancestry.whole) rounds.attached();
          if (whole && !ancestry.whole) rounds.detached();
        },
        onDetached() {
          ancestry.lost();
          grace?.linked(false);
          downstream?.pathChanged();
          rounds.detached();
        },
        onLoop(message) {
          events({ level: "error", name: "gateway-loop", gateway, message });
          ancestry.loop(message);
        },
        onRoundOpened: running.open,
        onRoundClosed: running.closed,
        onSessionOver(session) {
          rounds.sessionOver(session);
          downstream?.sessionOver(session);
        },
        onTelemetryReceipt: (receipt) => telemetry?.receipted(receipt),
        onTrust: (trust) => denylist?.heard(trust),
        onChallenge: challenges.asked,
        onPublished(session, manifest, layout) {
          publications.published(session, manifest, layout);
          downstream?.published(session, manifest, layout);
        },
      },
      events,
      clock,
      random,
      backoff,
    });
    teardown.push(() => uplink?.close());

    windows = createWindows({
      ...config.uplink,
      clock,
      trustedMs: () => windowTimeMs(time, clock),
      onChange: (open) => uplink?.allow(open),
      events,
    });
    teardown.push(() => windows?.close());

    inbound.connect({
      welcome: { gateway, site, incarnation: store.incarnation },
      link,
      devices,
      ingest,
      parts: modelParts,
      rounds,
      publications,
      carriers: shutOut?.carriers,
      enrol:
        identity && createDeviceEnrol({ site, ask, retryAfterMs: config.retryAfterMs, events }),
      replies,
      drops,
      events,
    });
    const shownRounds = () =>
      viewRounds({
        progress: running.progress(),
        atWork: (round) => downstream?.branches.atWork(round) ?? [],
        ended: record.ended,
        waiting: outbox.rounds(),
      });
    const status = () =>
      viewStatus(
        {
          // What fills, and what is full, is the results' share.
          config: { ...config, budgetBytes: budgets.results },
          incarnation: store.incarnation,
          softwareVersion: options.softwareVersion,
          clock,
          time,
          record,
          rate: filling,
          outbox,
          sentBytes: () => shipping.sentBytes,
          used: () => ({ usedBytes: usedBytes(), promisedBytes: rounds.promisedBytes }),
          roundTripMs: () => uplink?.roundTripMs,
          rounds: shownRounds,
          devices: () => devices.count,
          gatewaysBelow: () => downstream?.roll.names() ?? [],
          denylist: () => denylist?.view() ?? null,
          security,
          replies: () => replies.counts,
          freeBytes: () => kept.freeBytes,
          classes: kept.classes,
          nextWindowMs: () => windows?.nextMs() ?? null,
          brokenAbove: () => ancestry.broken ?? null,
          idle: () =>
            fullIdleOf({
              own: rounds.idle(),
              rounds: shownRounds(),
              known: [...outbox.rounds(), ...running.progress().map(({ round }) => round)],
              attached: attached() && ancestry.whole,
            }),
          bytesPerSecondMax: config.uplink.bytesPerSecond,
        },
        startedMs,
      );
    const page = await openStatusPage(config.status, status, events);
    teardown.push(() => page?.close());
    const port = await link.listen(config.listen.host, config.listen.port);
    windows.start();
    uplink.start();
    const { incarnation } = store;
    events({ level: "info", name: "gateway-started", gateway, site, incarnation, port });
    teardown.push(() => events({ level: "info", name: "gateway-stopped", gateway }));
    return {
      mqttPort: port,
      downstreamPort: downstream?.port,
      incarnation,
      statusPort: page?.port,
      status,
      health: () =>
        checkHealth({
          broker: { host: config.listen.host, port },
          writeStore: () => store.putNote("health", { atMs: time.nowMs() }, { sync: true }),
          uplinkTried: () => attached() || record.link().reason !== null,
        }),
      failed: ancestry.failed,
      close,
    };
  } catch (error) {
    await close().catch(() => {}); // what kept it from starting says more
    throw adviseRepair(error, dataDir);
  }
}
