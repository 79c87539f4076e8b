import type { KeyObject } from "node:crypto";
import { join } from "node:path";
import { type Clock, systemClock } from "@tributary/proto/host/clock.js";
import { type Disk, nodeDisk } from "@tributary/proto/host/disk.js";
import { acquireLock, type Lock } from "@tributary/proto/host/lock.js";
import { type Random, systemRandom } from "@tributary/proto/host/random.js";
import type { Attributes, Down } from "@tributary/proto/wire/device-link.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { announcedAttributes, systemAttributes } from "./attributes.js";
import { openAudit } from "./audit.js";
import { type CarriedListOptions, openCarriedList } from "./denylist.js";
import type { DeviceEvent, ReportedEvent } from "./events.js";
import { createFetcher } from "./fetch.js";
import type { DeviceIdentity } from "./identity.js";
import { createRenewal } from "./identity-renewal.js";
import { createWay } from "./identity-way.js";
import {
  type DeviceLink,
  type LinkOptions,
  type OpenLink,
  openMqttLink,
  type Send,
} from "./link.js";
import { type Models, openModels, viewModel } from "./models.js";
import { openPackages, type PackageRules, type Packages, packageRulesSchema } from "./packages.js";
import { createPerformer, type Performer } from "./perform.js";
import { createReceiver } from "./receive.js";
import { type Input, initialState, step } from "./round.js";
import { openSlot } from "./slot.js";
import { createTaskRunner } from "./task.js";
import type { Model, Trainer } from "./trainer.js";
import { createChunkSender } from "./upload.js";

const SDK = "typescript/0.1.0";

export type DeviceOptions = {
  readonly device: string;
  readonly site: string;
  /** The gateway's broker: mqtts://host:port for a device with an identity, mqtt://host:port for one without. */
  readonly gateway: string;
  /** Who the device is, once it is enrolled (`enrol.ts`): for TLS, and to sign its updates. */
  readonly identity?: DeviceIdentity;
  /** What it shows of it: its certificate, or its token where TLS can show none. */
  readonly credential?: "certificate" | "token";
  readonly trainer: Trainer;
  /** Which packages may run here in the trainer's place, and with what; by default none. */
  readonly packages?: PackageRules;
  /** The Ed25519 key that the device is enrolled with, once it is: it signs its updates with it. */
  readonly key?: () => KeyObject | undefined;
  /** Announced beside, and over, what the system says of itself. */
  readonly attributes?: Attributes;
  /** This device's own folder. Without it updates and models live in memory only. */
  readonly dataDir?: string;
  /** Where each sent update is written down as well. */
  readonly auditDir?: string;
  /** The fleet whose denylists the device keeps, goes by and carries; without it, none. */
  readonly trust?: CarriedListOptions["trust"];
  readonly onEvent?: (event: ReportedEvent) => void;
  /** The world, for tests and simulations. */
  readonly parts?: Partial<DeviceParts>;
};

export type DeviceParts = {
  readonly clock: Clock;
  readonly random: Random;
  /** In place of `dataDir`. */
  readonly disk: Disk;
  /** In place of `auditDir`. */
  readonly auditDisk: Disk;
  readonly openLink: OpenLink;
  readonly systemAttributes: () => Promise<Attributes>;
};

export type Device = {
  /**
   * Connects, and stays connected until `close`. An update held from an earlier run goes first.
   * Throws `data-dir-locked` when another process uses the folder.
   */
  start(): Promise<void>;
  /** Aborts what is under way. A held update stays in the slot for the next start. */
  close(): Promise<void>;
  /** The last good model of the cloud's: published, or trained from. */
  model(): Model | undefined;
  /**
   * Answers with the last good model and the `predict` of the package that its session's rounds ran
   * here last, else the trainer's; needs no connection.
   */
  predict(input: unknown): Promise<Verdict<{ readonly output: unknown }, "unknown-model">>;
};

/**
 * Opens a device on what it kept: `model` and `predict` work at once, without a connection.
 * Everything it consists of is put together here, in the order in which a round runs through it.
 */
export async function createDevice(options: DeviceOptions): Promise<Device> {
  const { device, site, trainer } = options;
  const { clock, random, disk, auditDisk, openLink, measure } = partsOf(options);
  const report = (event: DeviceEvent): void => options.onEvent?.({ ...event, device });
  const storageFailed = (what: string, message: string): void =>
    report({ level: "error", name: "storage-failed", what, message });

  let link: DeviceLink | undefined;
  let lock: Lock | undefined;
  const publish: DeviceLink["publish"] = (kind, header, payload) =>
    link?.publish(kind, header, payload) ?? Promise.reject(new Error("not started"));
  // A message that may be lost: whoever waits for its answer sends it again.
  const send: Send = (kind, header) => void publish(kind, header).catch(() => {});

  const { identity } = options;
  const trust = options.trust ?? identity;
  const carried = trust && (await openCarriedList({ disk, trust, publish, report }));
  const models = await openModels(disk, storageFailed);
  const packages = await openPackages({
    rules: options.packages ?? packageRulesSchema.parse({}),
    dir: options.dataDir === undefined ? undefined : join(options.dataDir, "packages"),
    clock,
    random,
    onFailure: storageFailed,
  });
  const machine = createMachine(clock, () => performer);
  const { dispatch } = machine;
  const fetcher = createFetcher({
    models,
    packages,
    clock,
    random,
    report,
    request: (header) => send("fetch", header),
    onFetched: (digest) => dispatch({ on: "fetched", digest }),
    onFailed: (digest, code, message) => dispatch({ on: "fetch-failed", digest, code, message }),
  });
  const runner = createTaskRunner({
    ...{ device, trainer, models, packages, clock, report },
    onEnd: dispatch,
  });
  const slot = openSlot(disk, device);
  const audit = openAudit(auditDisk, device);
  const sender = createChunkSender({
    publish: (header, payload) => publish("chunk", header, payload),
    onProgress: (round) => dispatch({ on: "progress", round }),
    onSent: (round) => dispatch({ on: "sent", round }),
  });
  const performer = createPerformer({
    ...{ device, fetcher, runner, slot, audit, sender, send, clock, random, report, dispatch },
    key: options.key ?? (() => identity?.key),
  });
  const renewal = identity && createRenewal({ identity, send, clock, random, report });
  const onMessage = createReceiver({ fetcher, clock, send, report, dispatch, carried, renewal });
  const way =
    identity &&
    createWay({
      ...{ url: options.gateway, identity, clock, random, report },
      credential: options.credential ?? "certificate",
      isVoid: (kind, name, givenAt) => carried?.isVoid(kind, name, givenAt) ?? false,
    });

  const restore = async (): Promise<string | undefined> => {
    const read = await slot.read();
    if (!read.ok) storageFailed("slot", read.message);
    if (!read.ok || read.update === undefined) return undefined;
    await audit.sent(read.update, true);
    dispatch({ on: "restored", update: read.update });
    return read.update.begin.round;
  };

  return {
    async start() {
      lock = await lockOf(options);
      const held = await restore().catch(async (cause: unknown) => {
        await lock?.release();
        throw cause;
      });
      await packages.sweep();
      const model = models.good()?.id;
      const kept = { ...(model && { model }), ...(held && { held }) };
      report({ level: "info", name: "started", ...kept });
      const attributes = await announcedAttributes(clock, measure, options.attributes);
      if (machine.closed()) return;
      const hello = () => ({
        ...{ sdk: SDK, attributes },
        ...(carried && { denylist: carried.sequence }),
      });
      link = openLink({
        ...{ url: options.gateway, way, site, device, clock, random, hello, onMessage },
        ...announceLink(report, (online, welcome) => {
          carried?.welcomed(welcome?.denylist);
          renewal?.setOnline(online);
          fetcher.setOnline(online);
          dispatch({ on: online ? "link-up" : "link-down" });
        }),
      });
    },
    async close() {
      if (machine.closed()) return;
      machine.close();
      performer.close();
      sender.stop();
      fetcher.abort();
      renewal?.close();
      await link?.close();
      await runner.close();
      await Promise.all([slot.settled(), models.settled(), packages.settled(), carried?.settled()]);
      await renewal?.settled();
      await lock?.release();
      report({ level: "info", name: "stopped" });
    },
    model() {
      const good = models.good();
      return good && viewModel(good);
    },
    predict: (input) => predict(models, packages, trainer, input),
  };
}

function announceLink(
  report: (event: DeviceEvent) => void,
  setOnline: (online: boolean, welcome?: Down<"welcome">) => void,
): Pick<LinkOptions, "onUp" | "onDown" | "onUnreadable"> {
  return {
    onUp(welcome) {
      report({ level: "info", name: "link-up", gateway: welcome.gateway });
      setOnline(true, welcome);
    },
    onDown(reason, retryMs) {
      report({ level: "warn", name: "link-down", reason, retryMs });
      setOnline(false);
    },
    onUnreadable: (kind, code, message) =>
      report({ level: "warn", name: "message-refused", kind, code, message }),
  };
}

/** Two processes on one folder would send two updates for one round. A disk that is passed in is the caller's. */
async function lockOf({ parts, dataDir }: DeviceOptions): Promise<Lock | undefined> {
  return dataDir === undefined || parts?.disk !== undefined ? undefined : acquireLock(dataDir);
}

function partsOf({ parts = {}, dataDir, auditDir }: DeviceOptions) {
  const diskAt = (dir: string | undefined): Disk | undefined =>
    dir === undefined ? undefined : nodeDisk(dir);
  return {
    clock: parts.clock ?? systemClock(),
    random: parts.random ?? systemRandom(),
    disk: parts.disk ?? diskAt(dataDir),
    auditDisk: parts.auditDisk ?? diskAt(auditDir),
    openLink: parts.openLink ?? openMqttLink,
    measure: parts.systemAttributes ?? systemAttributes,
  };
}

/** Holds the machine's state. Inputs are taken one by one: an effect may bring the next input before its step has ended. */
function createMachine(clock: Clock, performer: () => Performer) {
  const inputs: Input[] = [];
  let state = initialState;
  let stepping = false;
  let closed = false;
  return {
    dispatch(input: Input): void {
      inputs.push(input);
      if (stepping) return;
      stepping = true;
      for (let next = inputs.shift(); next !== undefined; next = inputs.shift()) {
        if (closed) continue;
        const result = step(state, next, clock.monotonicMs());
        state = result.state;
        for (const effect of result.effects) performer().perform(effect);
      }
      stepping = false;
    },
    close(): void {
      closed = true;
    },
    closed: () => closed,
  };
}

async function predict(
  models: Models,
  packages: Packages,
  own: Trainer,
  input: unknown,
): Promise<Verdict<{ readonly output: unknown }, "unknown-model">> {
  const good = models.good();
  if (good === undefined) {
    const message = "no model is kept yet: the device gets its first when it has been connected";
    return refuse("unknown-model", message);
  }
  // What trained the model knows how to answer with it.
  const { session = "" } = splitNumberedId(good.id) ?? {};
  const trainer = (await packages.predictor(session)) ?? own;
  if (trainer.predict === undefined)
    return refuse("unknown-model", "the trainer has no predict: it does not say how to answer");
  return { ok: true, output: await trainer.predict(viewModel(good), input) };
}
