import { TributaryError } from "@tributary/proto/wire/errors.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import { z } from "zod";
import { buffersSchema, leavesRoom } from "./budgets.js";
import { limits } from "./limits.js";
import { windowsSchema } from "./window-settings.js";

const MIB = 1024 * 1024;

/** How the root names itself in the path that gateways are told. */
export const ROOT = "cloud";

/** Addresses that only this machine reaches. `localhost` resolves to them by RFC 6761, 6.3. */
const loopback = /^(127(\.\d{1,3}){3}|::1|localhost)$/;

const hostSchema = z
  .string()
  .regex(/^[A-Za-z0-9.:-]{1,253}$/, { message: "must be an address, or a host's name" })
  .default("127.0.0.1");

const listenSchema = z
  .strictObject({
    host: hostSchema,
    /** 0 picks a free port. */
    port: z.number().int().min(0).max(65_535).default(1883),
  })
  .prefault({});

const downstreamSchema = z
  .strictObject({
    /** Where gateways below attach. */
    listen: z.strictObject({
      host: hostSchema,
      /** 0 picks a free port. */
      port: z.number().int().min(0).max(65_535).default(7444),
    }),
    /** Between their heartbeats. */
    heartbeatIntervalMs: z.number().int().min(100).max(60_000).default(1_000),
    /** One that sent nothing for so long counts as detached. */
    heartbeatMissedMs: z.number().int().min(200).max(600_000).default(5_000),
  })
  .refine((config) => config.heartbeatMissedMs >= 2 * config.heartbeatIntervalMs, {
    message: "must be at least twice heartbeatIntervalMs, or one lost heartbeat detaches a gateway",
    path: ["heartbeatMissedMs"],
  });

type Place = { readonly host: string; readonly port: number };

const ADDRESS = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/;

function placeOf(address: string): Place {
  const [, bracketed, plain, port] = ADDRESS.exec(address) ?? [];
  return { host: bracketed ?? plain ?? "", port: Number(port) };
}

const isEverywhere = (host: string) => host === "0.0.0.0" || /^[0:]*::0*$/.test(host);
/** `localhost` is one of two; which of them, the system says. */
const isLocalhost = (host: string) => ["localhost", "127.0.0.1", "::1"].includes(host);

/** Whether two places on this machine are, or may be, one. Port 0 is a free one, whichever it is. */
function coincide(a: Place, b: Place): boolean {
  if (a.port !== b.port || a.port === 0) return false;
  if (a.host === b.host || isEverywhere(a.host) || isEverywhere(b.host)) return true;
  return (
    (a.host === "localhost" || b.host === "localhost") && [a, b].every((p) => isLocalhost(p.host))
  );
}

type Places = {
  readonly upstream: string;
  readonly listen: Place;
  readonly status: Place & { readonly enabled: boolean };
  readonly downstream?: { readonly listen: Place } | undefined;
};

/** Where the gateway listens, by the setting's path. */
function placesOf({ listen, status, downstream }: Places): [path: string[], Place][] {
  const places: [string[], Place][] = [[["listen"], listen]];
  if (downstream !== undefined) places.push([["downstream", "listen"], downstream.listen]);
  if (status.enabled) places.push([["status"], status]);
  return places;
}

/** Refuses two listeners in one place, and an upstream that is one of them. */
function checkPlaces(config: Places, context: z.RefinementCtx): void {
  const places = placesOf(config);
  const upstream = placeOf(config.upstream);
  for (const [index, [path, place]] of places.entries()) {
    const name = path.join(".");
    const isOwn = isEverywhere(place.host)
      ? loopback.test(upstream.host) && upstream.port === place.port && place.port !== 0
      : coincide(upstream, place);
    if (isOwn) {
      const message = `is this gateway's own ${name}: a gateway cannot be above itself`;
      context.addIssue({ code: "custom", path: ["upstream"], message });
    }
    const taken = places.slice(0, index).find(([, other]) => coincide(place, other));
    if (taken !== undefined) {
      const message = `is the port of ${taken[0].join(".")}, too; each needs its own, or 0 for a free one`;
      context.addIssue({ code: "custom", path: [...path, "port"], message });
    }
  }
}

const HOUR_MS = 3_600_000;

/** Updates as their devices signed them, for the cloud's challenges; beside `budgetBytes`. */
const signedUpdatesSchema = z
  .strictObject({
    /** All of them; then whole rounds go, the oldest first. 0 keeps none, and fails every challenge. */
    budgetBytes: z
      .number()
      .int()
      .min(0)
      .default(1024 * MIB),
    /** A round goes when its newest update is so old, in milliseconds. */
    keepMs: z
      .number()
      .int()
      .min(0)
      .max(8_760 * HOUR_MS)
      .default(168 * HOUR_MS),
  })
  .prefault({});

const reconnectSchema = z
  .strictObject({
    /** The first wait after a lost uplink, in milliseconds; it doubles, with jitter. */
    baseMs: z.number().int().min(10).max(60_000).default(200),
    capMs: z.number().int().min(10).max(600_000).default(10_000),
  })
  .refine((r) => r.baseMs <= r.capMs, { message: "baseMs must not be larger than capMs" })
  .prefault({});

/** Scheme, host and port of a URL with nothing else in it; the port by default is the scheme's own. */
const originSchema = (scheme: "http" | "https") =>
  z.string().refine((text) => originOf(text)?.protocol === `${scheme}:`, {
    message: `must be like ${scheme}://host:port`,
  });

function originOf(text: string): URL | undefined {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const rest = url && [url.pathname, url.search, url.hash, url.username].join("");
  return rest === "/" ? url : undefined;
}

const uplinkSchema = z
  .strictObject({
    ...windowsSchema,
    /** The most that Partials and telemetry may send, in bytes a second; without a bound when left out. */
    bytesPerSecond: z.number().int().min(limits.bytesPerSecondMin).optional(),
  })
  .prefault({});

/** Addresses of this machine and of private networks: RFC 1918, RFC 4193, RFC 4291, RFC 3927. */
const nearby =
  /^(127(\.\d{1,3}){3}|10(\.\d{1,3}){3}|172\.(1[6-9]|2\d|3[01])(\.\d{1,3}){2}|192\.168(\.\d{1,3}){2}|169\.254(\.\d{1,3}){2}|0\.0\.0\.0|::1?|f[cd][0-9a-f]{2}:[0-9a-f:]+|fe80:[0-9a-f:]+(%\w+)?|localhost)$/i;

const statusSchema = z
  .strictObject({
    enabled: z.boolean().default(true),
    /** The page is read-only and shows no secret, so it may be read from the site's network. */
    host: z
      .string()
      .regex(nearby, {
        message:
          "must be a loopback or private address, or 0.0.0.0: the page is for the site's own network",
      })
      .default("127.0.0.1"),
    /** 0 picks a free port. */
    port: z.number().int().min(0).max(65_535).default(7481),
  })
  .prefault({});

/** What an operator may set of a gateway. Sizes in bytes, times in milliseconds. */
export const configSchema = z
  .strictObject({
    site: idSchema,
    gateway: idSchema,
    /** Everything the gateway keeps. One gateway process at a time. */
    dataDir: z.string().min(1),
    listen: listenSchema,
    /** host:port of the cloud, or of a gateway above this one. */
    upstream: z
      .string()
      .regex(ADDRESS, { message: "must be host:port" })
      .refine((address) => placeOf(address).port >= 1 && placeOf(address).port <= 65_535, {
        message: "its port must be between 1 and 65535",
      }),
    /** Who is at that address, by its certificate: `cloud`, or the name of the gateway above. */
    upstreamName: idSchema.default(ROOT),
    /**
     * Where the fleet's authority answers, to enrol and to renew, as https://host:port. By default the
     * upstream's host, at the port that a cloud's API has.
     */
    authority: originSchema("https").optional(),
    /** An HTTP proxy through which the upstream and the authority are reached, as http://host:port. */
    proxy: originSchema("http").optional(),
    /**
     * Lets a gateway without an identity be reached from a network, and reach its upstream over one, in
     * the clear: for a network that is trusted as a whole, and for trials.
     */
    insecure: z.boolean().default(false),
    /** Makes it a gateway above gateways. */
    downstream: downstreamSchema.optional(),
    /** Updates received at a time; each holds one buffer of an update's size. */
    uploadSlots: z.number().int().min(1).max(64).default(4),
    modelCacheBytes: z
      .number()
      .int()
      .min(1 * MIB)
      .default(2048 * MIB),
    /** All that is buffered. At the results' share of it updates are refused, and kept by devices. */
    budgetBytes: z
      .number()
      .int()
      .min(1 * MIB)
      .default(4096 * MIB),
    /** Free space of the disk that is left to others. */
    reserveDiskBytes: z
      .number()
      .int()
      .min(0)
      .default(256 * MIB),
    buffers: buffersSchema,
    /** A file that is let go when the disk is full to the last byte, so that the index can be written. */
    ballastBytes: z
      .number()
      .int()
      .min(0)
      .max(1024 * MIB)
      .default(16 * MIB),
    /** An upload that does not move for so long loses its slot. */
    uploadIdleMs: z.number().int().min(100).max(600_000).default(15_000),
    /** What a device is told to wait after a refusal that may pass. */
    retryAfterMs: z.number().int().min(0).max(600_000).default(1_000),
    /** How long a round waits for roster devices that are not connected when it opens. */
    absentGraceMs: z.number().int().min(0).max(600_000).default(5_000),
    signedUpdates: signedUpdatesSchema,
    reconnect: reconnectSchema,
    uplink: uplinkSchema,
    status: statusSchema,
    log: z.enum(["text", "json"]).default("text"),
  })
  .superRefine(checkPlaces)
  .refine((c) => c.gateway !== ROOT, {
    message: `no gateway is called ${ROOT}: that is what is above all of them`,
    path: ["gateway"],
  })
  .refine(leavesRoom, {
    message: "controlBytes, metricsBytes and logsBytes must leave half of budgetBytes to results",
    path: ["buffers"],
  })
  .refine((c) => c.absentGraceMs === 0 || c.absentGraceMs >= c.reconnect.baseMs, {
    message: "absentGraceMs must be 0 or at least reconnect.baseMs",
    path: ["absentGraceMs"],
  });

export type GatewayConfig = z.infer<typeof configSchema>;

/** The port of a cloud's REST API, unless it is told otherwise. */
const AUTHORITY_PORT = 7480;

/** Where the authority answers, and how it is reached. */
export function authorityPlaceOf({
  authority,
  upstream,
  proxy,
}: Pick<GatewayConfig, "authority" | "upstream" | "proxy">): Place & { readonly proxy?: Place } {
  const url = originOf(authority ?? "");
  const place =
    url === undefined
      ? { host: placeOf(upstream).host, port: AUTHORITY_PORT }
      : { host: hostOf(url), port: Number(url.port || 443) };
  const via = proxyPlaceOf({ proxy });
  return via === undefined ? place : { ...place, proxy: via };
}

export function proxyPlaceOf({ proxy }: Pick<GatewayConfig, "proxy">): Place | undefined {
  const url = originOf(proxy ?? "");
  return url && { host: hostOf(url), port: Number(url.port || 80) };
}

export function upstreamHostOf({ upstream }: Pick<GatewayConfig, "upstream">): string {
  return placeOf(upstream).host;
}

function hostOf({ hostname }: URL): string {
  return hostname.replace(/^\[|\]$/g, "");
}

/**
 * What a gateway without an identity does in the clear over a network, by its settings; empty where it
 * stays on this machine. Throws `config-invalid` where nobody asked for that.
 */
export function plainOverNetwork(config: GatewayConfig): string[] {
  const { listen, downstream, upstream, insecure } = config;
  const places = [
    ["listen.host", listen.host],
    ["downstream.listen.host", downstream?.listen.host ?? "localhost"],
    ["upstream", placeOf(upstream).host],
  ] as const;
  const open = places.filter(([, host]) => !loopback.test(host)).map((one) => one.join(" "));
  if (open.length === 0 || insecure) return open;
  throw new TributaryError(
    "config-invalid",
    `${open.join(", ")}: without an identity nothing but this machine's own loopback addresses is spoken to; enrol the gateway with \`tributary gateway enrol\`, or set insecure`,
  );
}
