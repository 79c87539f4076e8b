import type { Cloud } from "@tributary/cloud/cloud.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import type { Actor, Stage } from "./actor.js";
import type { CloudProgram } from "./programs.js";
import { drawer, type Settings } from "./settings.js";

/** The one who started the session, and who looks after it. */
export type Operator = {
  /** Stops the session for a while. */
  stopSession(forMs: number): void;
  /** What the session still has to do; undefined when it has finished. */
  waitsFor(): Promise<string | undefined>;
};

const LOOK_EVERY_MS = 1_500;

/** The model that a session starts from, as the file that a user uploads. */
export function initialModel({ seed, tensors }: Settings): Uint8Array {
  const draw = drawer(seededRandom(`${seed} model`));
  const layout = tensors.map((length, at) => ({ name: `t${at}`, shape: [length] }));
  const values = Float32Array.from(
    layout.flatMap(({ shape }) =>
      Array.from({ length: shape[0] as number }, () => draw.between(-2, 2)),
    ),
  );
  return encodeSafetensors(layout, values);
}

export function createOperator(
  { agenda, trace }: Stage,
  settings: Settings,
  cloud: { readonly actor: Actor<Cloud>; readonly program: CloudProgram },
): Operator {
  const { name } = settings.session;
  let away = false;
  const say = (what: string) => trace.note(agenda.nowMs, "user", what);

  async function look(running: Cloud): Promise<void> {
    const view = running.sessions.status(name);
    if (view === undefined) {
      const imported = await running.models.importFile(name, one(initialModel(settings)), 0);
      if (!imported.ok && imported.code !== "model-exists")
        say(`import refused: ${imported.message}`);
      const started = await running.sessions.start(settings.session);
      say(started.ok ? "started the session" : `start refused: ${started.message}`);
    } else if ((view.state === "stopped" || view.state === "failed") && !away) {
      const resumed = await running.sessions.resume(name);
      say(resumed.ok ? "resumed the session" : `resume refused: ${resumed.message}`);
    }
  }
  function lookAgain(): void {
    const { running } = cloud.actor;
    // A call of a cloud that dies never comes back: the next look does not wait for it.
    if (running !== undefined)
      look(running).catch((error: unknown) => say(`failed: ${String(error)}`));
    agenda.after(LOOK_EVERY_MS, lookAgain);
  }
  agenda.after(LOOK_EVERY_MS, lookAgain);

  return {
    stopSession(forMs) {
      const { running } = cloud.actor;
      if (away || running?.sessions.status(name) === undefined) return;
      away = true;
      cloud.program.register.note({ kind: "stop-asked" });
      agenda.after(forMs, () => {
        away = false;
      });
      running.sessions
        .stop(name)
        .then((stopped) => say(stopped.ok ? "stopped the session" : "could not stop it"))
        .catch((error: unknown) => say(`failed: ${String(error)}`));
    },
    async waitsFor() {
      const row = await cloud.program.store.session(name);
      if (row === undefined) return "the session has not started";
      return row.state === "finished"
        ? undefined
        : `the session is ${row.state}: ${row.reason ?? ""}`;
    },
  };
}

async function* one(bytes: Uint8Array) {
  yield bytes;
}
