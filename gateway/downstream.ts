import { roundsOf, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type {
  AttachResponse,
  Challenge,
  RoundProgress,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import type { IsVoid } from "@tributary/proto/identity/denylist.js";
import { createAttachments, type Members } from "@tributary/proto/tier/attach.js";
import { listenGrpc, type TierSecurity } from "@tributary/proto/tier/grpc-server.js";
import { createInbox } from "@tributary/proto/tier/inbox.js";
import { type AnswerPort, createService, type EnrolPort } from "@tributary/proto/tier/service.js";
import { SPOOL_FOLDER } from "@tributary/proto/tier/spool.js";
import type { TrustKeeper } from "@tributary/proto/tier/trust.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { Refusal } from "@tributary/proto/wire/verdict.js";
import { type Branches, createBranches, type OwnRounds } from "./branches.js";
import type { GatewayConfig } from "./config.js";
import type { DeviceChange } from "./devices.js";
import type { GatewayEvents } from "./events.js";
import { createIntake } from "./intake.js";
import { limits } from "./limits.js";
import type { Models } from "./models.js";
import { createModelsBelow } from "./models-below.js";
import type { Forwarding, Outbox } from "./outbox.js";
import type { Publications } from "./publications.js";
import { createRoll, type Roll } from "./roll.js";
import type { SiteTime } from "./site-time.js";
import type { Storage } from "./storage.js";
import type { Store } from "./store.js";
import type { TelemetryBelow } from "./telemetry-below.js";

/** The side of a regional gateway that serves gateways below: it is their upstream, as the cloud is its. */
export type Downstream = {
  /** The port on which gateways attach. */
  readonly port: number;
  readonly roll: Roll;
  readonly branches: Branches;
  /** How a Partial of the own devices travels on: with those from below, when its round has some. */
  forwarding(partial: Sum, forwarding: Forwarding): Forwarding;
  published(session: string, manifest: Uint8Array, layout: Uint8Array): void;
  /** More of a model can be read here. */
  modelProgressed(digest: string): void;
  /** What is above this gateway has changed. */
  pathChanged(): void;
  sessionOver(session: string): void;
  /** A newer denylist is known: those below get it. */
  denylist(list: { readonly sequence: number; readonly text: string }): void;
  /** The cloud wants signed updates: those below that have some answer. */
  challenge(challenge: Challenge): void;
  /** Ends the streams of gateways that are shut out; returns how many. */
  cut(isVoid: IsVoid): number;
  close(): Promise<void>;
};

export type DownstreamOptions = {
  readonly config: Pick<GatewayConfig, "gateway" | "absentGraceMs" | "modelCacheBytes"> & {
    readonly downstream: NonNullable<GatewayConfig["downstream"]>;
  };
  readonly disk: Disk;
  readonly store: Store;
  readonly outbox: Outbox;
  readonly storage: Pick<Storage, "fits" | "state">;
  readonly models: Models;
  readonly publications: Pick<Publications, "list" | "recover">;
  readonly rounds: OwnRounds;
  readonly telemetry: TelemetryBelow;
  /** What is above, the upstream first and the root last; empty as long as that is not known. */
  readonly above: () => readonly string[];
  /** Undefined where the gateway belongs to no fleet. */
  readonly trust: () => TrustKeeper | undefined;
  /** What this gateway shows those below, and checks them by; in the clear without it. */
  readonly security?: TierSecurity | undefined;
  /** Passes enrolments and renewals from below on; undefined where there is no way to an authority. */
  readonly enrol?: EnrolPort | undefined;
  /** Passes signed updates from below on. */
  readonly answerChallenge: AnswerPort;
  readonly onDeviceChange: (change: DeviceChange) => void;
  readonly onProgress: (progress: RoundProgress) => void;
  readonly onPlanRefused: (round: string, refusal: Refusal) => void;
  /** Something may be shipped. */
  readonly onPartial: () => void;
  readonly events: GatewayEvents;
  readonly clock: Clock;
  readonly time: SiteTime;
  readonly listen?: typeof listenGrpc;
};

/** Failure: `port-in-use`. */
export async function openDownstream(options: DownstreamOptions): Promise<Downstream> {
  const { config, disk, store, outbox, models, publications, events, clock, time } = options;
  const { listen: address, heartbeatIntervalMs, heartbeatMissedMs } = config.downstream;
  await disk.remove(SPOOL_FOLDER); // whoever sent it is told that nothing arrived
  const roll = createRoll(options.onDeviceChange);
  const attachments = createAttachments({
    clock,
    gateways: roll.gateways,
    devices: roll.devices,
    events,
    upstream: config.gateway,
    above: options.above,
    nowMs: () => (time.trusted ? time.nowMs() : 0),
    trust: options.trust,
    heartbeatIntervalMs,
    heartbeatMissedMs,
  });
  const branches = await createBranches({
    absentGraceMs: config.absentGraceMs,
    modelCacheBytes: config.modelCacheBytes,
    store,
    outbox,
    models,
    rounds: options.rounds,
    roll,
    send: attachments.links.send,
    onProgress: options.onProgress,
    onPlanRefused: options.onPlanRefused,
    onReleased: options.onPartial,
    events,
    clock,
    time,
  }).catch((cause: unknown) => {
    attachments.close();
    throw cause;
  });
  /** In memory only: it spares those below work that would be in vain. */
  const over = new Set<string>();
  const intake = createIntake({
    store,
    outbox,
    branches,
    storage: options.storage,
    onKept: options.onPartial,
    events,
  });
  const inbox = createInbox(disk, clock, intake);
  const modelsBelow = createModelsBelow({ models, recover: publications.recover, clock });
  const members: Members = {
    fleetChanged() {},
    async attached(gateway, rounds) {
      const known = publications
        .list()
        .map(([session, { manifest, layout }]) =>
          modelPublished(session, encodeCbor(manifest), encodeCbor(layout)),
        );
      // One that names no round of it may have others below that stand by for its next one. A
      // session that was stopped may go on.
      const live = branches.openRounds().map((round) => splitNumberedId(round)?.session);
      const ended = [...over].filter((session) => !live.includes(session)).map(sessionOver);
      return [...known, ...branches.attached(gateway, rounds), ...ended];
    },
    detached: branches.detached,
    progressed: branches.progressed,
    planRefused: branches.planRefused,
    async telemetry(gateway, message) {
      const incarnation = roll.gateway(gateway)?.incarnation;
      if (incarnation === undefined) return undefined;
      return options.telemetry.take(gateway, incarnation, message);
    },
  };
  const service = createService({
    clock,
    attachments,
    members,
    inbox,
    openModel: (_model, digest) => modelsBelow.open(digest),
    answerChallenge: options.answerChallenge,
    enrol: options.enrol,
    events,
  });
  const close = async () => {
    attachments.close();
    modelsBelow.close();
    await inbox.close();
    await branches.close();
  };
  const listening = (options.listen ?? listenGrpc)(
    service,
    address,
    clock,
    events,
    options.security,
  );
  const server = await listening.catch(async (error: unknown) => {
    await close();
    throw error;
  });
  return {
    port: server.port,
    roll,
    branches,
    forwarding(partial, forwarding) {
      // A further stretch of site rounds is late for its round: it does not wait for the rest.
      const held = roundsOf(partial).find((round) => branches.view(round)?.open === true);
      return held === undefined ? forwarding : { ...forwarding, held };
    },
    published(session, manifest, layout) {
      attachments.links.broadcast(modelPublished(session, manifest, layout));
    },
    modelProgressed: modelsBelow.progressed,
    pathChanged: attachments.pathChanged,
    sessionOver(session) {
      over.add(session);
      for (const oldest of over) {
        if (over.size <= limits.publishedSessions) break;
        over.delete(oldest);
      }
      attachments.links.broadcast(sessionOver(session));
    },
    denylist({ sequence, text }) {
      const value = { denylistSequence: BigInt(sequence), denylist: text };
      attachments.links.broadcast({ message: { $case: "trust", value } });
    },
    challenge: (value) => attachments.links.broadcast({ message: { $case: "challenge", value } }),
    cut: attachments.shut,
    async close() {
      attachments.close();
      modelsBelow.close();
      await server.close();
      await close();
    },
  };
}

function sessionOver(session: string): AttachResponse {
  return { message: { $case: "sessionOver", value: { session } } };
}

function modelPublished(session: string, manifest: Uint8Array, layout: Uint8Array): AttachResponse {
  const value = { session, manifest: Buffer.from(manifest), layout: Buffer.from(layout) };
  return { message: { $case: "modelPublished", value } };
}
