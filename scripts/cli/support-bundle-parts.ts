import { execFile } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { open, readdir, readFile, stat } from "node:fs/promises";
import { arch, cpus, freemem, loadavg, platform, release, totalmem, uptime } from "node:os";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { reasonOf } from "./failure.js";
import { cliLimits } from "./limits.js";

/** One file of a bundle, as it was found: nothing is hidden in it yet. */
export type Part = { readonly name: string; readonly text: string };

/** What could not be had is told in its place. */
export async function partOr(name: string, read: () => Promise<string>): Promise<Part> {
  try {
    return { name, text: await read() };
  } catch (error) {
    return { name: `${name}.missing`, text: `${reasonOf(error)}\n` };
  }
}

export function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** The machine, without its name, its addresses and its variables' values. */
export function machineText(env: Readonly<Record<string, string | undefined>>): string {
  return json({
    platform: platform(),
    release: release(),
    arch: arch(),
    node: process.version,
    cpus: cpus().length,
    cpu: cpus()[0]?.model ?? null,
    memoryBytes: totalmem(),
    freeMemoryBytes: freemem(),
    load: loadavg(),
    upSeconds: Math.round(uptime()),
    variables: Object.keys(env)
      .filter((name) => name.startsWith("TRIBUTARY_"))
      .sort(),
  });
}

type Listed = {
  readonly path: string;
  readonly bytes: number;
  readonly mode: string;
  readonly changed: string;
};

/** Names and sizes of what is in a data directory, never what is in it. */
export async function listingText(dataDir: string): Promise<string> {
  const found: Listed[] = [];
  let left = 0;
  const visit = async (folder: string): Promise<void> => {
    for (const entry of await readdir(join(dataDir, folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) await visit(path);
      else if (found.length >= cliLimits.bundleListed) left++;
      else {
        const { size, mode, mtime } = await stat(join(dataDir, path));
        const octal = (mode & 0o777).toString(8).padStart(3, "0");
        found.push({ path, bytes: size, mode: octal, changed: mtime.toISOString() });
      }
    }
  };
  await visit("");
  return json({ files: found, notListed: left });
}

/** Who a gateway or a device is, from its certificate, which it shows to everybody. */
export async function certificateText(dataDir: string): Promise<string> {
  const pem = await readFile(join(dataDir, "identity", "certificate.pem"), "utf8");
  const { subject, subjectAltName, issuer, serialNumber, validFrom, validTo } = new X509Certificate(
    pem,
  );
  return json({ subject, subjectAltName, issuer, serialNumber, validFrom, validTo });
}

/** The end of a log, from the start of a line on. */
export async function tailText(file: string): Promise<string> {
  const handle = await open(file, "r");
  try {
    const { size } = await handle.stat();
    const length = Math.min(size, cliLimits.bundleLogBytes);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, size - length);
    const text = buffer.toString("utf8", 0, bytesRead);
    // Half a line could hold half a secret, which nothing would know for one.
    return length < size ? text.slice(text.indexOf("\n") + 1) : text;
  } finally {
    await handle.close();
  }
}

export const logName = (at: number, file: string): string => `logs/${at + 1}-${basename(file)}`;

/** What systemd has noted of a unit. */
export async function unitText(unit: string): Promise<string> {
  const lines = String(cliLimits.bundleUnitLines);
  const options = { maxBuffer: 4 * cliLimits.bundleLogBytes, timeout: cliLimits.answerMs };
  const args = ["--unit", unit, "--lines", lines, "--no-pager", "--output", "short-iso"];
  const { stdout } = await promisify(execFile)("journalctl", args, options);
  return stdout;
}
