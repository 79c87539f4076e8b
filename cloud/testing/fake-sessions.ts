import { refuse } from "@tributary/proto/wire/verdict.js";
import { type SessionParams, sessionParamsSchema } from "../params.js";
import type { Sessions, SessionView } from "../session-view.js";

/** Sessions that only change their state: what the API needs to be tested alone. */
export function fakeSessions(names: readonly string[]): Sessions {
  const views = new Map<string, SessionView>();
  const add = (params: SessionParams): SessionView => {
    const view: SessionView = {
      id: params.name,
      name: params.name,
      state: "running",
      activity: "waiting",
      reason: null,
      params,
      head: params.initialModel,
      round: null,
      kept: { partials: 0, contributions: 0, bytes: 0, carried: 0 },
      counts: { models: 0, rounds: 0, failedRounds: 0, merged: 0, expired: 0 },
      startedAtMs: 1,
      endedAtMs: null,
      metrics: {},
    };
    views.set(view.id, view);
    return view;
  };
  for (const name of names) add(sessionParamsSchema.parse({ name, initialModel: `${name}.0` }));
  const turn = (id: string, from: string, to: "running" | "stopped") => {
    const view = views.get(id);
    if (view === undefined) return refuse("unknown-session", `no session ${id}`);
    if (view.state !== from) return refuse("wrong-state", `${id} is ${view.state}`);
    const session = { ...view, state: to };
    views.set(id, session);
    return { ok: true as const, session };
  };
  return {
    async start(params) {
      if (views.has(params.name)) return refuse("session-exists", `${params.name} exists`);
      if (params.initialModel === "nobody.0") return refuse("unknown-model", "no model nobody.0");
      return { ok: true, session: add(params) };
    },
    stop: async (id) => turn(id, "running", "stopped"),
    resume: async (id) => turn(id, "stopped", "running"),
    status: (id) => views.get(id),
    list: () => [...views.values()].sort((a, b) => (a.id < b.id ? -1 : 1)),
    async activate(model) {
      const [id = ""] = model.split(".");
      if (id === "other") return refuse("unknown-model", `no model ${model}`);
      const view = views.get(id);
      if (view === undefined) return refuse("foreign-model", `${model} belongs to no session`);
      const session = { ...view, head: model };
      views.set(id, session);
      return { ok: true, session, model };
    },
  };
}
