import { Command } from "commander";
import { addAlarms } from "./alarms.js";
import { addAuditCommands } from "./audit.js";
import { addChallengeCommands } from "./challenge.js";
import { addCheck } from "./check.js";
import { addClaimCommands } from "./claim.js";
import { addCompletion } from "./completion.js";
import { addFlash } from "./flash.js";
import { addDeviceList, addGatewayList } from "./fleet.js";
import { addGatewayEnrol } from "./gateway-enrol.js";
import { addGatewayRepair } from "./gateway-repair.js";
import { addGatewaySize } from "./gateway-size.js";
import { addGatewayStatus } from "./gateway-status.js";
import { addGatewayImport } from "./import.js";
import { addCloudInit, addKeyCommands } from "./keys.js";
import { addLogin } from "./login.js";
import { addModelCommands } from "./model.js";
import { addPackageCommands } from "./package.js";
import { addProjectCommands } from "./project.js";
import { addDenylist, addRevoke } from "./revoke.js";
import { addSessionCommands } from "./session.js";
import { addSupportBundle } from "./support-bundle.js";
import { addPredict, addStart } from "./tiers.js";
import { addTokenCommands } from "./token.js";
import { addGatewayInstall, addGatewayUpdate } from "./update.js";
import { defaultUrl, type World } from "./world.js";

const exitCodesHelp = `
Exit codes:
  0   done
  1   the cloud, or the device's model, refused; damage was found
  2   check found errors (1: warnings only)
  64  the command line is wrong
  69  the cloud, or the gateway, cannot be reached
  70  a defect of this command
  73  a file cannot be written
  78  the config is wrong`;

/** The whole command tree. Parsing throws commander's errors instead of ending the process. */
export function createProgram(world: World, version: string): Command {
  const program = new Command("tributary");
  program
    .description("Federated learning for the edge: run the tiers, start sessions, get models.")
    .version(version, "--version", "print the version")
    .helpOption("-h, --help", "show help for a command")
    .helpCommand(false)
    .option("--url <url>", `the cloud's REST API; TRIBUTARY_URL; default: ${defaultUrl}`)
    .option("--json", "print JSON on stdout, and nothing else there")
    .addHelpText("after", exitCodesHelp)
    .exitOverride()
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => world.stdout.write(text),
      writeErr: (text) => world.stderr.write(text),
      outputError: (text, write) => write(text.replace(/^error: /, "tributary: ")),
      getOutHelpWidth: () => world.stdout.width,
      getErrHelpWidth: () => world.stderr.width,
    });

  const group = (name: string, description: string): Command =>
    program.command(name).description(description).helpCommand(false);

  const cloud = group("cloud", "run the cloud, or make its fleet's authority");
  addStart(cloud, world, "cloud", version);
  addCloudInit(cloud, world);
  const gateway = group(
    "gateway",
    "run, watch, size, update or repair a gateway, or list those of the cloud",
  );
  addStart(gateway, world, "gateway", version);
  addGatewayEnrol(gateway, world);
  addGatewayStatus(gateway, world);
  addGatewaySize(gateway, world);
  addGatewayRepair(gateway, world);
  addGatewayImport(gateway, world);
  addGatewayInstall(gateway, world);
  addGatewayUpdate(gateway, world);
  addGatewayList(gateway, world);
  const device = group("device", "run a device, let it predict, or list those of the cloud");
  addStart(device, world, "device", version);
  addPredict(device, world);
  addDeviceList(device, world);
  addSessionCommands(group("session", "start, watch, stop and resume sessions"), world);
  addModelCommands(group("model", "list, trace, fetch, import and activate models"), world);
  addPackageCommands(group("package", "make, sign and upload training code for devices"), world);
  addKeyCommands(group("keys", "list, rotate, back up and restore the fleet's keys"), world);
  addClaimCommands(group("claim", "let gateways and devices enrol"), world);
  addRevoke(program, world);
  addLogin(program, world);
  addTokenCommands(group("token", "make, list and revoke tokens of people and programs"), world);
  addProjectCommands(group("project", "make projects, give them sites, invite members"), world);
  addAuditCommands(group("audit", "list, export and verify the audit log"), world);
  addDenylist(program, world);
  addChallengeCommands(group("challenge", "have gateways prove their Partials"), world);
  addFlash(program, world, version);
  addAlarms(program, world);
  addCheck(program, world);
  addSupportBundle(program, world, version);
  addCompletion(program, world);
  return program;
}
