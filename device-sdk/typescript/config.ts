import { attributesSchema } from "@tributary/proto/wire/device-link.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import { z } from "zod";
import { limits } from "./limits.js";
import { packageRulesSchema } from "./packages.js";

const brokerPattern = /^mqtts?:\/\/(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):\d{1,5}$/;
/** Addresses that only this machine reaches. `localhost` resolves to them by RFC 6761, 6.3. */
const loopback = /^mqtt:\/\/(127(\.\d{1,3}){3}|\[::1\]|localhost):/;

/** Whether devices of a config have an identity: in the clear there is nothing to show one by. */
export function isSecure({ gateway }: { readonly gateway: string }): boolean {
  return gateway.startsWith("mqtts:");
}

const optionsSchema = z.record(z.string(), z.unknown());

/** What stands in a device's config file. Paths are relative to the file. */
export const configSchema = z
  .strictObject({
    site: idSchema,
    /** The gateway's broker: over `mqtts` as an enrolled device, over `mqtt` as whoever it says. */
    gateway: z.string().regex(brokerPattern, {
      message: "must be mqtts://host:port, or mqtt://host:port for a gateway on this machine",
    }),
    /** A file with the claim that a device without an identity enrols with. It is deleted after that. */
    claimFile: z.string().min(1).optional(),
    /** What is shown of the identity: a certificate, or a token, for what cannot show one in TLS. */
    credential: z.enum(["certificate", "token"]).default("certificate"),
    /**
     * Lets `mqtt` leave this machine: whoever is on the way can read and change what is said, and be the
     * gateway. For a network that is trusted as a whole, and for trials.
     */
    insecure: z.boolean().default(false),
    /** One device, or a list of them in one process: a box with several sensors, a simulation. */
    device: idSchema.optional(),
    devices: z
      .array(
        z.strictObject({
          device: idSchema,
          /** Added to `trainer.options`, and set over them. */
          options: optionsSchema.default({}),
          attributes: attributesSchema.default({}),
        }),
      )
      .min(1)
      .max(limits.devicesPerProcess)
      .optional(),
    /** Where updates and models outlive the process, in a folder for each device. Without it they live in memory. */
    dataDir: z.string().min(1).optional(),
    /** Announced beside what the system says of itself, and set over it. */
    attributes: attributesSchema.default({}),
    /** May be missing where packages run: such a device declines what comes without one. */
    trainer: z
      .strictObject({
        /** An ES module that exports `createTrainer(options)`. */
        module: z.string().min(1),
        options: optionsSchema.default({}),
      })
      .optional(),
    /** Compute packages: none runs unless its signer is pinned here. */
    packages: packageRulesSchema.prefault({}),
    /** Where each sent update is also written down, for a checker. */
    auditDir: z.string().min(1).optional(),
    log: z.enum(["text", "json"]).default("text"),
  })
  .superRefine((config, issues) => {
    const issue = (path: string, message: string): void =>
      issues.addIssue({ code: "custom", path: [path], message });
    if (!isSecure(config) && !config.insecure && !loopback.test(config.gateway))
      issue(
        "gateway",
        "must be mqtts://host:port: mqtt goes over a network in the clear, which only `insecure: true` allows",
      );
    if (isSecure(config) && config.dataDir === undefined)
      issue("dataDir", "is needed for mqtts: a device keeps its identity there");
    if (!isSecure(config) && config.claimFile !== undefined)
      issue("claimFile", "serves to enrol, which needs a gateway at mqtts://host:port");
    if (config.trainer === undefined && config.packages.signers.length === 0)
      issues.addIssue({
        code: "custom",
        path: ["trainer"],
        message: "name a trainer's module, or pin a signer of packages in packages.signers",
      });
    if (config.packages.signers.length > 0 && config.dataDir === undefined)
      issues.addIssue({
        code: "custom",
        path: ["dataDir"],
        message: "is needed where packages run: they are kept there",
      });
    if ((config.device === undefined) === (config.devices === undefined))
      issues.addIssue({
        code: "custom",
        path: ["device"],
        message: "name either one device or a list of devices",
      });
    const ids = config.devices?.map(({ device }) => device) ?? [];
    const twice = ids.find((id, at) => ids.indexOf(id) !== at);
    if (twice !== undefined)
      issues.addIssue({
        code: "custom",
        path: ["devices"],
        message: `${twice} stands twice in the list`,
      });
  });

export type DeviceConfig = z.infer<typeof configSchema>;

/** One device of a config, with what is its own. */
export type ConfiguredDevice = {
  readonly device: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly attributes: DeviceConfig["attributes"];
};

/** The devices of a config, each with its options and attributes over the shared ones. */
export function devicesOf(config: DeviceConfig): readonly ConfiguredDevice[] {
  const { attributes } = config;
  const shared = config.trainer?.options ?? {};
  if (config.devices === undefined)
    return config.device === undefined
      ? []
      : [{ device: config.device, options: shared, attributes }];
  return config.devices.map((own) => ({
    device: own.device,
    options: { ...shared, ...own.options },
    attributes: { ...attributes, ...own.attributes },
  }));
}
