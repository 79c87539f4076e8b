import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { SessionParams } from "../params.js";
import type { SessionView } from "../session-view.js";
import { importInitialModel, startCloud } from "./cloud.js";

/**
 * A cloud in a process of its own, so that a test can kill it as a power cut would. Run directly,
 * this file is that process; imported, it starts one.
 */
export type CloudProcess = {
  readonly grpcPort: number;
  start(params: SessionParams): Promise<void>;
  status(id: string): Promise<SessionView | undefined>;
  /** SIGKILL: nothing is written, closed or said. */
  kill(): Promise<void>;
  stop(): Promise<void>;
};

type Request =
  | { readonly kind: "start"; readonly params: SessionParams }
  | { readonly kind: "status"; readonly id: string };
type Reply = { readonly ok: boolean; readonly value?: unknown };

export async function forkCloud(dataDir: string): Promise<CloudProcess> {
  const child = fork(fileURLToPath(import.meta.url), [dataDir], { stdio: "inherit" });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const reply = () =>
    new Promise<Reply>((resolve, reject) => {
      child.once("message", (message) => resolve(message as Reply));
      void exited.then(() => reject(new Error("the cloud's process ended")));
    });
  const ask = async (request: Request): Promise<unknown> => {
    const answered = reply();
    child.send(request);
    const { ok, value } = await answered;
    if (!ok) throw new Error(JSON.stringify(value));
    return value;
  };
  const { value } = await reply();
  return {
    grpcPort: value as number,
    start: async (params) => void (await ask({ kind: "start", params })),
    status: async (id) => (await ask({ kind: "status", id })) as SessionView | undefined,
    async kill() {
      child.kill("SIGKILL");
      await exited;
    },
    async stop() {
      child.kill("SIGTERM");
      await exited;
    },
  };
}

async function serve(dataDir: string): Promise<void> {
  const cloud = await startCloud(dataDir);
  const say = (reply: Reply) => process.send?.(reply);
  if ((await cloud.store.model("s.0")) === undefined) await importInitialModel(cloud);
  const answer = async (request: Request): Promise<Reply> => {
    if (request.kind === "status") return { ok: true, value: cloud.sessions.status(request.id) };
    const started = await cloud.sessions.start(request.params);
    return { ok: started.ok, value: started };
  };
  process.on("message", (message) => void answer(message as Request).then(say));
  process.on("SIGTERM", () => void cloud.close().then(() => process.disconnect()));
  say({ ok: true, value: cloud.grpcPort });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await serve(process.argv[2] ?? "");
