import { readFile } from "node:fs/promises";

/** A process's memory as Linux counts it (proc_pid_status(5)), in KiB. */
export async function readStatusKib(pid: number, field: "VmHWM" | "VmRSS"): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const found = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status);
  if (found === null) throw new Error(`/proc/${pid}/status has no ${field}`);
  return Number(found[1]);
}

/** Linux counts processor time in hundredths of a second, whatever its own tick (proc_pid_stat(5)). */
const TICKS_PER_SECOND = 100;

/** Processor time that a process has used, in the kernel too, in milliseconds. */
export async function readCpuMs(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  // The second field, the command in parentheses, may hold spaces; utime and stime are 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS_PER_SECOND;
}
