import type { DeviceRow, GatewayRow } from "@tributary/cloud/store/rows.js";
import type { Command } from "commander";
import { firstOf } from "./api.js";
import { type Column, table } from "./text/table.js";
import { ago, bytes, count, text } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

const none = (what: string): string => `no ${what} yet\n`;

function gatewayColumns(nowMs: number): readonly Column<GatewayRow>[] {
  return [
    { title: "GATEWAY", cell: ({ id }) => id },
    { title: "SITE", cell: ({ site }) => text(site) },
    { title: "LINK", cell: ({ attached }) => (attached ? "up" : "down") },
    { title: "DEVICES", cell: ({ connectedDevices }) => count(connectedDevices), align: "right" },
    {
      title: "OUTBOX",
      cell: ({ outboxPartials, outboxBytes }) =>
        outboxPartials === 0 ? "empty" : `${count(outboxPartials)} (${bytes(outboxBytes)})`,
    },
    { title: "DISK FREE", cell: ({ freeDiskBytes }) => bytes(freeDiskBytes), align: "right" },
    { title: "SEEN", cell: ({ lastSeenMs }) => ago(lastSeenMs, nowMs) },
    { title: "VERSION", cell: ({ softwareVersion }) => text(softwareVersion) },
  ];
}

function deviceColumns(nowMs: number): readonly Column<DeviceRow>[] {
  return [
    { title: "DEVICE", cell: ({ id }) => id },
    { title: "SITE", cell: ({ site }) => text(site) },
    { title: "GATEWAY", cell: ({ gateway }) => text(gateway) },
    { title: "LINK", cell: ({ connected }) => (connected ? "up" : "down") },
    { title: "SEEN", cell: ({ lastSeenMs }) => ago(lastSeenMs, nowMs) },
    { title: "SDK", cell: ({ sdk }) => text(sdk) },
  ];
}

type DeviceFilter = { readonly site?: string; readonly gateway?: string };

export function addGatewayList(gateway: Command, world: World): void {
  gateway
    .command("list")
    .description("show the gateways that the cloud knows")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const gateways = await firstOf(apiOf(world, options).gateways());
      show(world, options, gateways, () =>
        gateways.length === 0
          ? none("gateway")
          : table(gatewayColumns(world.nowMs()), gateways, world.stdout.width),
      );
    });
}

export function addDeviceList(device: Command, world: World): void {
  device
    .command("list")
    .description("show the devices that gateways reported to the cloud")
    .option("--site <id>", "only those of this site")
    .option("--gateway <id>", "only those that this gateway reported last")
    .action(async ({ site, gateway }: DeviceFilter, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const filter = {
        ...(site === undefined ? {} : { site }),
        ...(gateway === undefined ? {} : { gateway }),
      };
      const devices = await firstOf(apiOf(world, options).devices(filter));
      show(world, options, devices, () =>
        devices.length === 0
          ? none("device")
          : table(deviceColumns(world.nowMs()), devices, world.stdout.width),
      );
    });
}
