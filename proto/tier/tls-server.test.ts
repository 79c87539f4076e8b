import assert from "node:assert/strict";
import type { KeyObject } from "node:crypto";
import { connect as connectPlain } from "node:net";
import { test } from "node:test";
import { connect } from "node:tls";
import { Client, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import type { AttachResponse } from "../gen/tributary/v1/reducer.js";
import { ReducerServiceClient, ReducerServiceService } from "../gen/tributary/v1/reducer.js";
import { systemClock } from "../host/clock.js";
import { readCertificates } from "../identity/certificate.js";
import { denials } from "../identity/denylist.js";
import { keyToPem, makeKey } from "../identity/keys.js";
import type { Subject } from "../identity/names.js";
import { createTestAuthority, type LeafContents } from "../vectors/authority.js";
import { createAttachments, type Members } from "./attach.js";
import { listenGrpc } from "./grpc-server.js";
import { CODE_KEY } from "./grpc-status.js";
import type { Inbox } from "./inbox.js";
import { createService } from "./service.js";

const fleet = "acme";
const authority = createTestAuthority();
const clock = systemClock();
const HOUR_MS = 3_600_000;
const gatewayKey = makeKey("ES256");
const gw: Subject = { fleet, kind: "gateway", site: "plant", name: "gw-1" };

type Context = { after(done: () => Promise<void> | void): void };

/** A side that serves gateways, with nothing behind it, over TLS. */
async function serve(t: Context) {
  const cloudKey = makeKey("ES256");
  const cloud = (): string =>
    authority.certify({ fleet, kind: "cloud", name: "cloud" }, cloudKey, {
      uses: ["server"],
    });
  const listeners = new Set<() => void>();
  const identity = {
    fleet,
    key: cloudKey,
    certificate: cloud(),
    anchors: readCertificates(authority.certificate),
    isVoid: denials({ entries: [] }),
    onChange(listener: () => void) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const attachments = createAttachments({
    clock,
    gateways: { attach: () => true, detach() {}, seen() {}, heartbeat() {} },
    devices: { change: () => ({ ok: true, dropped: 0 }) },
    events() {},
    upstream: "cloud",
    above: () => [],
    nowMs: () => Date.now(),
    heartbeatIntervalMs: 1_000,
    heartbeatMissedMs: 600_000,
  });
  const members = {
    fleetChanged() {},
    attached: async () => [],
    detached() {},
    progressed() {},
    planRefused() {},
    telemetry: async () => undefined,
  } satisfies Members;
  const service = createService({
    clock,
    attachments,
    members,
    inbox: {
      open: async () => ({ ok: true, state: { receivedBytes: 7 } }),
      sender: () => undefined,
      load: () => ({ uploads: 0, bytes: 0 }),
      close: async () => {},
    } satisfies Inbox,
    openModel: async () => undefined,
    enrol: async () => ({ ok: false, code: "claim-unknown", message: "no such claim" }),
    events() {},
  });
  const server = await listenGrpc(service, { host: "127.0.0.1", port: 0 }, clock, () => {}, {
    identity,
    nowMs: () => Date.now(),
  });
  t.after(async () => {
    attachments.close();
    await server.close();
  });
  return {
    port: server.port,
    /** Puts something else in the identity's place. */
    change(next: {
      isVoid?: typeof identity.isVoid;
      anchors?: typeof identity.anchors;
      renew?: true;
    }) {
      Object.assign(identity, next, next.renew && { certificate: cloud() });
      for (const listener of listeners) listener();
    },
    serial: () => readCertificates(identity.certificate)[0]?.serialNumber,
  };
}

type Shown = { readonly key: KeyObject; readonly certificate: string };

function credentialsOf(shown: Shown | undefined) {
  return credentials.createSsl(
    Buffer.from(authority.certificate),
    shown ? Buffer.from(keyToPem(shown.key)) : null,
    shown ? Buffer.from(shown.certificate) : null,
    { checkServerIdentity: () => undefined },
  );
}

function certified(
  subject: Subject = gw,
  contents: Partial<LeafContents> = {},
  from = authority,
): Shown {
  const key = subject.kind === "device" ? makeKey("EdDSA") : gatewayKey;
  return { key, certificate: from.certify(subject, key, contents) };
}

function clientOf(t: Context, port: number, shown: Shown | undefined): ReducerServiceClient {
  const client = new ReducerServiceClient(`127.0.0.1:${port}`, credentialsOf(shown));
  t.after(() => client.close());
  return client;
}

/** Certificates of a fleet name no hosts. */
const trust = { ca: authority.certificate, checkServerIdentity: () => undefined };
const within = () => ({ deadline: new Date(Date.now() + 30_000) });

/** The refusal's code, or gRPC's own status where it brought none. */
function codeOf(error: ServiceError | null | undefined): string {
  if (error === null || error === undefined) return "ok";
  const [code] = error.metadata?.get(CODE_KEY) ?? [];
  return code === undefined ? (status[error.code] ?? "?") : String(code);
}

/** How each method of the service, as it is defined, answers a message that says nothing. */
async function askAll(t: Context, port: number, shown: Shown | undefined) {
  const client = new Client(`127.0.0.1:${port}`, credentialsOf(shown));
  t.after(() => client.close());
  const answers: Record<string, string> = {};
  for (const [name, method] of Object.entries(ReducerServiceService)) {
    const { path, requestStream, responseStream, requestSerialize } = method;
    const responseDeserialize = method.responseDeserialize as (bytes: Buffer) => object;
    const serialize = requestSerialize as (value: unknown) => Buffer;
    const empty = { claim: "", request: "", message: undefined, id: undefined, round: "" };
    const message = { ...empty, model: "", digest: "", offset: 0n, totalBytes: 0n };
    answers[name] = await new Promise<string>((resolve) => {
      const done = (error: ServiceError | null) => resolve(codeOf(error));
      const raw = () => serialize({ ...message, data: Buffer.alloc(0) });
      const same = (bytes: Buffer) => bytes;
      const call = requestStream
        ? responseStream
          ? client.makeBidiStreamRequest(path, same, responseDeserialize, new Metadata(), within())
          : client.makeClientStreamRequest(path, same, responseDeserialize, within(), done)
        : responseStream
          ? client.makeServerStreamRequest(path, same, responseDeserialize, raw(), within())
          : client.makeUnaryRequest(path, same, responseDeserialize, raw(), within(), done);
      call.on("error", done);
      if ("on" in call && responseStream) call.on("data", () => resolve("ok"));
      if (responseStream) call.on("end", () => resolve("ok"));
      if (requestStream) (call as { end?(): void }).end?.();
    });
  }
  return answers;
}

const everyMethod = Object.keys(ReducerServiceService);
const all = (code: string) => Object.fromEntries(everyMethod.map((name) => [name, code]));

test("every gRPC method without credentials is refused, whatever methods there are", async (t) => {
  const { port } = await serve(t);
  assert.ok(everyMethod.length >= 5);
  assert.deepEqual(await askAll(t, port, undefined), all("certificate-missing"));
});

test("every gRPC method is refused to whoever is no gateway of the fleet, now", async (t) => {
  const { port, change } = await serve(t);
  const nowMs = Date.now();
  const past = { fromMs: nowMs - 2 * HOUR_MS, toMs: nowMs - HOUR_MS };
  const future = { fromMs: nowMs + HOUR_MS, toMs: nowMs + 2 * HOUR_MS };
  const device: Subject = { fleet, kind: "device", site: "plant", name: "press-7" };
  const cases: [Shown, string][] = [
    [certified(device), "certificate-subject"],
    [certified({ ...gw, fleet: "other" }), "certificate-subject"],
    [certified(gw, past), "certificate-expired"],
    [certified(gw, future), "certificate-not-yet-valid"],
    [certified(gw, {}, createTestAuthority("stranger")), "certificate-untrusted"],
    [certified(gw, { uses: ["server"] }), "certificate-untrusted"],
  ];
  for (const [shown, code] of cases)
    assert.deepEqual(await askAll(t, port, shown), all(code), code);
  change({ isVoid: (kind, name) => kind === "gateway" && name === "gw-1" });
  assert.deepEqual(await askAll(t, port, certified()), all("certificate-revoked"));
});

test("a gateway of the fleet is heard by every method", async (t) => {
  const { port } = await serve(t);
  const answers = await askAll(t, port, certified());
  for (const [name, code] of Object.entries(answers))
    assert.doesNotMatch(code, /^certificate/, name);
});

type Answer = { readonly upstream?: string; readonly code?: string };

/** What a Hello is answered with, and how the stream ends after that. */
function attach(client: ReducerServiceClient, gateway: string, site: string) {
  const call = client.attach();
  const ended = new Promise<string>((resolve) => {
    call.on("error", (error: ServiceError) => resolve(codeOf(error)));
    call.on("end", () => resolve("ok"));
  });
  const first = new Promise<Answer>((resolve) => {
    call.on("data", ({ message }: AttachResponse) => {
      if (message?.$case === "welcome") resolve({ upstream: message.value.upstream });
    });
    void ended.then((code) => resolve({ code }));
  });
  const hello = { protocolVersion: 1, gateway, site, incarnation: "i", softwareVersion: "v" };
  const value = { ...hello, rounds: [], below: [], nowMs: 0n };
  call.write({ message: { $case: "hello", value } });
  return { call, first, ended };
}

test("gateway A's certificate with gateway B's name, or another site, does not attach", async (t) => {
  const { port } = await serve(t);
  const client = clientOf(t, port, certified());
  const own = attach(client, "gw-1", "plant");
  assert.deepEqual(await own.first, { upstream: "cloud" });
  own.call.end();
  for (const [name, site] of [
    ["gw-2", "plant"],
    ["gw-1", "mill"],
  ] as const)
    assert.deepEqual(await attach(client, name, site).first, { code: "certificate-subject" });
});

test("gateway A's certificate brings no Partial of gateway B", async (t) => {
  const { port } = await serve(t);
  const client = clientOf(t, port, certified());
  const open = (gateway: string) =>
    new Promise<string>((resolve) => {
      const id = { gateway, incarnation: "i", sequence: 1n };
      const request = { id, round: "s.1", digest: "0".repeat(64), totalBytes: 9n };
      client.openPartial(request, (error) => resolve(codeOf(error)));
    });
  const send = (gateway: string) =>
    new Promise<string>((resolve) => {
      const call = client.sendPartial((error) => resolve(codeOf(error)));
      call.on("error", () => {});
      const id = { gateway, incarnation: "i", sequence: 1n };
      call.write({ id, offset: 0n, data: Buffer.alloc(9) });
      call.end();
    });
  assert.equal(await open("gw-1"), "ok");
  assert.equal(await open("gw-2"), "certificate-subject");
  assert.equal(await send("gw-1"), "not-granted");
  assert.equal(await send("gw-2"), "certificate-subject");
});

test("a gateway that is shut out while it is attached hears so, and is cut off", async (t) => {
  const { port, change } = await serve(t);
  const client = clientOf(t, port, certified());
  const { first, ended } = attach(client, "gw-1", "plant");
  assert.deepEqual(await first, { upstream: "cloud" });
  change({ isVoid: (_kind, name) => name === "gw-1" });
  const again = attach(client, "gw-1", "plant");
  assert.deepEqual(await again.first, { code: "certificate-revoked" });
  assert.equal(await ended, "UNAVAILABLE", "its stream ends with the connection");
});

test("an authority that is trusted no more is nobody's word, on connections that are up, too", async (t) => {
  const { port, change } = await serve(t);
  const client = clientOf(t, port, certified());
  const { first, ended } = attach(client, "gw-1", "plant");
  assert.deepEqual(await first, { upstream: "cloud" });
  const next = createTestAuthority("next");
  change({ anchors: readCertificates(next.certificate) });
  assert.equal(await ended, "UNAVAILABLE");
});

test("a renewed certificate is shown on the next connection, and the one before stays up", async (t) => {
  const { port, change, serial } = await serve(t);
  const client = clientOf(t, port, certified());
  const { first, call } = attach(client, "gw-1", "plant");
  assert.deepEqual(await first, { upstream: "cloud" });
  const before = await shownTo(port);
  assert.equal(before, serial());
  change({ renew: true });
  const after = await shownTo(port);
  assert.equal(after, serial());
  assert.notEqual(after, before);
  const heartbeat = new Promise<void>((resolve) => {
    call.on("data", ({ message }: AttachResponse) => {
      if (message?.$case === "heartbeatEcho") resolve();
    });
  });
  const zero = { connectedDevices: 0, outboxPartials: 0, outboxBytes: 0n, oldestAgeMs: 0n };
  const more = { freeDiskBytes: 0n, refusals: new Map<string, bigint>(), duplicatesDropped: 0n };
  const value = { sequence: 1n, ...zero, ...more, budgetBytes: 0n, classes: [] };
  const last = { roundTripMs: 0, clockOffsetMs: 0n };
  call.write({ message: { $case: "heartbeat", value: { ...value, ...last } as never } });
  await heartbeat;
  call.end();
});

/** The serial of the certificate that a newcomer is shown. */
function shownTo(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: "127.0.0.1", ...trust }, () => {
      resolve(socket.getPeerCertificate().serialNumber);
      socket.destroy();
    });
    socket.on("error", reject);
  });
}

test("an older TLS, and what is no TLS at all, do not get to HTTP/2", async (t) => {
  const { port } = await serve(t);
  await assert.rejects(
    new Promise((resolve, reject) => {
      const options = { port, host: "127.0.0.1", ...trust, maxVersion: "TLSv1.2" } as const;
      const socket = connect(options, () => resolve("connected"));
      socket.on("error", reject);
    }),
    /alert|protocol|ECONNRESET/,
  );
  const answered = await new Promise<Buffer>((resolve, reject) => {
    const socket = connectPlain(port, "127.0.0.1", () =>
      socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    );
    const chunks: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.on("close", () => resolve(Buffer.concat(chunks)));
    socket.on("error", reject);
  });
  // At most an alert (RFC 8446, 6), no frame of HTTP/2.
  assert.ok(answered.length === 0 || answered[0] === 21);
});
