import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { logLimits } from "./limits.js";
import { isLabel, LogError, surveyLog } from "./table.js";

export type LogDevice = {
  readonly device: string;
  readonly file: string;
  /** As the user knows it: folder and file name. */
  readonly shown: string;
};

export type Logs = {
  readonly sites: readonly { readonly site: string; readonly devices: readonly LogDevice[] }[];
  /** Sensors that every file has, in the first file's order. */
  readonly sensors: readonly string[];
  /** Other columns of any file. */
  readonly unused: readonly string[];
  /** Rows of each file, by device. */
  readonly rows: ReadonlyMap<string, number>;
};

/** Finds the logs below `dir` and the sensors that all of them share; looks at every row once. */
export async function findLogs(dir: string, ignored: readonly string[]): Promise<Logs> {
  const folders = await subfolders(dir);
  const siteNames = uniqueIds(folders, "site");
  const sites = await Promise.all(
    folders.map(async (folder, i) => ({
      site: siteNames[i] ?? "",
      devices: await devicesIn(dir, folder, siteNames[i] ?? ""),
    })),
  );
  const used = sites.filter(({ devices }) => devices.length > 0);
  if (used.length === 0) {
    throw new LogError(
      `${dir}: no folder with a .csv file; each folder is a site, each file a device`,
    );
  }
  const devices = used.flatMap((site) => site.devices);
  if (used.length > logLimits.sites || devices.length > logLimits.devices) {
    throw new LogError(
      `${dir}: ${used.length} folders and ${devices.length} files; at most ${logLimits.sites} and ${logLimits.devices}`,
    );
  }
  return { sites: used, ...(await commonSensors(dir, devices, ignored)) };
}

async function subfolders(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch((cause: Error) => {
    throw new LogError(`cannot read ${dir}: ${cause.message}`, { cause });
  });
  return entries
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name)
    .sort();
}

async function devicesIn(dir: string, folder: string, site: string): Promise<LogDevice[]> {
  const names = (await readdir(join(dir, folder))).filter((name) => /\.csv$/i.test(name)).sort();
  const ids = uniqueIds(
    names.map((name) => name.replace(/\.csv$/i, "")),
    "device",
  );
  return names.map((name, i) => ({
    device: `${site}-${ids[i]}`,
    file: join(dir, folder, name),
    shown: `${folder}/${name}`,
  }));
}

/** Names as identifiers: other characters become `-`, and equal ones are numbered. */
export function uniqueIds(names: readonly string[], fallback: string): string[] {
  const taken = new Set<string>();
  return names.map((name) => {
    const plain = name
      .replace(/[^A-Za-z0-9_-]+/g, "-")
      .replace(/^[^A-Za-z0-9]+/, "")
      .slice(0, 24);
    const stem = plain === "" ? fallback : plain;
    let id = stem;
    for (let n = 2; taken.has(id); n++) id = `${stem}-${n}`;
    taken.add(id);
    return id;
  });
}

async function commonSensors(
  dir: string,
  devices: readonly LogDevice[],
  ignored: readonly string[],
): Promise<Pick<Logs, "sensors" | "unused" | "rows">> {
  let sensors: readonly string[] | undefined;
  const all = new Set<string>();
  const rows = new Map<string, number>();
  for (const { device, file } of devices) {
    const survey = await surveyLog(file, ignored);
    rows.set(device, survey.rows);
    for (const name of survey.columns) all.add(name);
    sensors = sensors?.filter((name) => survey.sensors.includes(name)) ?? survey.sensors;
    if (sensors.length === 0) {
      throw new LogError(`${file}: no column of numbers is left that all files share`);
    }
  }
  const unknown = ignored.find((name) => !all.has(name));
  if (unknown !== undefined) {
    throw new LogError(`${dir}: no file has the column "${unknown}" that --ignore names`);
  }
  const common = sensors ?? [];
  if (common.length > logLimits.sensors) {
    throw new LogError(
      `${dir}: ${common.length} common sensors; at most ${logLimits.sensors}. Use --ignore.`,
    );
  }
  const unused = [...all].filter((name) => !common.includes(name) && !isLabel(name));
  return { sensors: common, unused, rows };
}
