import { TributaryError } from "@tributary/proto/wire/errors.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import { z } from "zod";
import { challengeLimits } from "./challenge-limits.js";

/** Addresses that only this machine reaches. `localhost` resolves to them by RFC 6761, 6.3. */
const loopback = /^(127(\.\d{1,3}){3}|::1|localhost)$/;

const listen = (port: number) =>
  z
    .strictObject({
      host: z
        .string()
        .regex(/^[A-Za-z0-9.:-]{1,255}$/, { message: "must be an address, or a host's name" })
        .default("127.0.0.1"),
      /** 0 picks a free port. */
      port: z.number().int().min(0).max(65_535).default(port),
      /** In the clear, although there is an authority: behind a proxy on this machine, for one. */
      plain: z.boolean().default(false),
    })
    .prefault({});

const hostSchema = z
  .string()
  .regex(/^[A-Za-z0-9.:-]{1,253}$/, { message: "must be a host's name or an address" });

function isLoopbackUrl(url: string): boolean {
  return URL.canParse(url) && loopback.test(new URL(url).hostname.replace(/^\[|\]$/g, ""));
}

const storeSchema = z
  .strictObject({
    /** A PostgreSQL server; without one the store is embedded, in the data directory. A secret. */
    url: z
      .string()
      .regex(/^postgres(ql)?:\/\/\S+$/, { message: "must be a postgres:// URL" })
      .optional(),
  })
  .prefault({});

/** What an operator may set of the cloud. Times in milliseconds. */
export const configSchema = z
  .strictObject({
    /** Everything the cloud keeps. One cloud process at a time. */
    dataDir: z.string().min(1),
    /** Where gateways connect. */
    grpc: listen(7443),
    /** The REST API. */
    http: listen(7480),
    /**
     * Lets a listener in the clear be reached from a network. Whoever is there can read and change all
     * of it: for a network that is trusted as a whole, and for trials.
     */
    insecure: z.boolean().default(false),
    /** This cloud's name in its certificate, by which gateways know it. */
    name: idSchema.default("cloud"),
    /** Names and addresses that callers know this machine by; they stand in its certificate. */
    hosts: z.array(hostSchema).max(16).default([]),
    store: storeSchema,
    /** Between a gateway's heartbeats. */
    heartbeatIntervalMs: z.number().int().min(100).max(60_000).default(1_000),
    /** A gateway that sent nothing for so long counts as detached. */
    heartbeatMissedMs: z.number().int().min(200).max(600_000).default(5_000),
    /** What the fleet's authority issues, where one was made. In days. */
    authority: z
      .strictObject({
        /** Life of a certificate, and of the token that comes with it. */
        certificateDays: z.number().int().min(1).max(365).default(30),
        /** How long after its end a certificate still serves to ask for the next one. */
        graceDays: z.number().int().min(0).max(730).default(180),
      })
      .prefault({}),
    /** Who else's tokens callers may show, where there is an authority. */
    access: z
      .strictObject({
        /** An OpenID Connect provider. */
        provider: z
          .strictObject({
            issuer: z.url(),
            jwksUrl: z.url({ protocol: /^https?$/ }),
            audience: z.string().min(1).max(256),
            tokenTypes: z.array(z.string().min(1).max(64)).min(1).max(8).default(["at+jwt"]),
          })
          .refine(({ jwksUrl }) => jwksUrl.startsWith("https:") || isLoopbackUrl(jwksUrl), {
            message: "must be https, or on loopback: who changes the keys on the way is anybody",
            path: ["jwksUrl"],
          })
          .optional(),
      })
      .prefault({}),
    /** Of gateways, to prove that devices stand behind their Partials; where there is an authority. */
    challenges: z
      .strictObject({
        /** Chance that a Partial is challenged when it comes; 0 for never. */
        rate: z.number().min(0).max(1).default(0.02),
        /** Updates that are asked for then. */
        updates: z.number().int().min(1).max(challengeLimits.updates).default(4),
        /** A challenge fails for what has not come by then, in milliseconds. */
        timeoutMs: z.number().int().min(1_000).max(604_800_000).default(3_600_000),
      })
      .prefault({}),
    log: z.enum(["text", "json"]).default("text"),
  })
  .refine((config) => config.heartbeatMissedMs >= 2 * config.heartbeatIntervalMs, {
    message: "must be at least twice heartbeatIntervalMs, or one lost heartbeat detaches a gateway",
    path: ["heartbeatMissedMs"],
  })
  .refine((config) => config.grpc.port === 0 || config.grpc.port !== config.http.port, {
    message: "must differ from grpc.port",
    path: ["http", "port"],
  });

export type CloudConfig = z.infer<typeof configSchema>;

/** The listeners that are in the clear. Throws `config-invalid` where a network reaches one unasked. */
export function plainListeners(config: CloudConfig, authority: boolean): ("grpc" | "http")[] {
  const plain = (["grpc", "http"] as const).filter((one) => !authority || config[one].plain);
  const open = plain.filter((one) => !loopback.test(config[one].host));
  if (open.length === 0 || config.insecure) return plain;
  const what = open.map((one) => `${one}.host ${config[one].host}`).join(", ");
  const way = authority
    ? "leave out `plain`"
    : "make an authority with `tributary cloud init`, so that they are over TLS";
  throw new TributaryError(
    "config-invalid",
    `${what}: in the clear only a loopback address is listened on; ${way}, or set insecure`,
  );
}

/** Keys that `--print-config` does not show: a store's URL holds a password. */
export const secretKeys = ["url"] as const;
