import { setTimeout as wait } from "node:timers/promises";
import type { StatusView } from "@tributary/gateway/status-view.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import type { Command } from "commander";
import { CommandFailure, reasonOf, usageFailure } from "./failure.js";
import { cliLimits } from "./limits.js";
import { describeStatus } from "./text/gateway-status.js";
import { type GlobalOptions, show, type World } from "./world.js";

const defaultUrl = "http://127.0.0.1:7481";

type StatusOptions = GlobalOptions & { readonly config?: string; readonly watch?: boolean };

/** Adds `status`: what a gateway says on its own page, which needs no cloud. */
export function addGatewayStatus(gateway: Command, world: World): void {
  gateway
    .command("status")
    .description("show what one gateway keeps and how it is, from its status page")
    .option("--config <file>", "the gateway's config, which says where its page is")
    .option("--watch", "look again every two seconds, until interrupted")
    .addHelpText("after", `\nHere --url is the gateway's status page; default: ${defaultUrl}`)
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<StatusOptions>();
      const url = await urlOf(world, options);
      if (options.watch !== true) {
        const view = await readStatus(url);
        return show(world, options, view, () => describeStatus(view, world.stdout.width));
      }
      await watchStatus(world, url, options.json === true);
    });
}

async function urlOf(world: World, { url, config }: StatusOptions): Promise<string> {
  if (url !== undefined && config !== undefined) {
    throw usageFailure("--url and --config both say where the page is; give one of them");
  }
  if (config === undefined) return originOf(url ?? defaultUrl);
  const { readGatewayConfig } = await import("@tributary/gateway/main.js");
  const { status } = await readGatewayConfig({ file: config, env: world.env });
  if (!status.enabled) {
    throw usageFailure(`${config} turns the status page off (status.enabled)`);
  }
  return gatewayPageUrl(status);
}

/** Where the page of this machine's gateway is. */
export function gatewayPageUrl(status: { readonly host: string; readonly port: number }): string {
  // One that listens everywhere listens here, too.
  const own = status.host === "0.0.0.0" ? "127.0.0.1" : status.host === "::" ? "::1" : status.host;
  return `http://${own.includes(":") ? `[${own}]` : own}:${status.port}`;
}

function originOf(url: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed === undefined || !/^https?:$/.test(parsed.protocol)) {
    throw usageFailure(`"${url}" is not an http:// or https:// URL`);
  }
  return parsed.origin;
}

async function watchStatus({ stdout }: World, url: string, json: boolean): Promise<never> {
  for (;;) {
    try {
      const view = await readStatus(url);
      if (json) stdout.write(`${JSON.stringify(view)}\n`);
      else {
        const text = describeStatus(view, stdout.width);
        stdout.write(stdout.isTerminal ? `\u001b[H\u001b[J${text}` : `${text}\n`);
      }
    } catch (error) {
      // It may be starting again; whoever watches sees it come back.
      const { code, message } = error as CommandFailure;
      const line = json ? JSON.stringify({ error: { code, message } }) : message;
      stdout.write(stdout.isTerminal && !json ? `\u001b[H\u001b[J${line}\n` : `${line}\n`);
    }
    await wait(cliLimits.statusWatchMs);
  }
}

/** Throws a `CommandFailure` when nothing answers there, or something else does. */
export async function readStatus(url: string): Promise<StatusView> {
  const { statusSchema } = await import("@tributary/gateway/status-view.js");
  const target = `${url}/status.json`;
  const response = await fetch(target, {
    signal: AbortSignal.timeout(cliLimits.answerMs),
    redirect: "error",
  }).catch((error: unknown) => {
    const cause = error instanceof Error ? (error.cause ?? error) : error;
    throw new CommandFailure(
      "gateway-unreachable",
      `cannot reach a gateway's status page at ${url}: ${reasonOf(cause)}.\n` +
        "Is the gateway running? --config FILE takes the address from its config.",
      exitCodes.unavailable,
      error,
    );
  });
  const text = await response.text();
  if (response.status === 421) {
    throw usageFailure(`the gateway answers to its address or a local name, not to ${url}`);
  }
  const view = statusSchema.safeParse(response.ok ? parsed(text) : undefined);
  if (view.success) return view.data;
  const message = `${target} did not answer with a gateway's status; is this its page?`;
  throw new CommandFailure("not-a-gateway", message, exitCodes.unavailable);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
