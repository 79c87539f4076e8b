import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { signUserToken, type UserToken } from "@tributary/proto/identity/tokens.js";
import { createAccess } from "../access/access.js";
import type { Provider } from "../access/oidc.js";
import { createProjects } from "../access/projects.js";
import { createApi } from "../api/server.js";
import { createAudit } from "../audit/audit.js";
import { openAuthority } from "../authority/authority.js";
import { keepAuthority, makeAuthorityKeys, tokenKey } from "../authority/keys.js";
import type { CloudEvent } from "../events.js";
import { createModels } from "../models.js";
import { createPackages } from "../packages/packages.js";
import { openStore } from "../store/open.js";
import { fakeSessions } from "./fake-sessions.js";

export const nowMs = 1_800_000_000_000;

/** The API of a cloud that has an authority, over a real store, with sessions that only change state. */
export async function securedApi({
  atMs = nowMs,
  ...given
}: {
  readonly provider?: Provider;
  readonly atMs?: number;
} = {}) {
  const dir = await mkdtemp(join(tmpdir(), "tributary-access-"));
  const clock = createManualClock(atMs);
  const random = systemRandom();
  const keys = await makeAuthorityKeys("press-works", atMs, random);
  await keepAuthority(dir, keys);
  const store = await openStore({ dataDir: dir });
  const events: CloudEvent[] = [];
  const shared = { clock, random, events: (event: CloudEvent) => events.push(event) };
  const rules = { certificateDays: 30, graceDays: 180 };
  const authority = await openAuthority({
    ...shared,
    dataDir: dir,
    store: store.identities,
    rules,
  });
  if (authority === undefined) throw new Error("there is an authority");
  const audit = createAudit(store.audit, clock, shared.events);
  const projects = await createProjects({ ...shared, store: store.access });
  const access = createAccess({ ...given, ...shared, authority, projects, store: store.access });
  const packages = createPackages(memoryDisk(), store.packages);
  const api = await createApi({
    access,
    packages: { code: packages, store: store.packages },
    audit,
    authority,
    store,
    models: createModels(memoryDisk(), store, random),
    sessions: fakeSessions([]),
    clock,
    events: shared.events,
    version: "test",
  });
  let count = 0;
  return {
    dir,
    api,
    store,
    keys,
    clock,
    audit,
    events,
    authority,
    /** A good token of somebody with these roles, and changes to it. */
    token(roles: UserToken["roles"], over: Partial<UserToken> = {}): Promise<string> {
      count++;
      const iat = Math.floor(atMs / 1000);
      const who = { sub: `u${count}`, name: `user ${count}`, jti: `t${count}` };
      return signUserToken(
        keys.fleet,
        { ...who, roles, iat, exp: iat + 3_600, ...over },
        tokenKey(keys),
      );
    },
    async ask(method: "GET" | "POST", path: string, token?: string, body?: object | Buffer) {
      const answer = await api.inject({
        method,
        url: path.startsWith("/.") ? path : `/api/v1${path}`,
        headers: {
          ...(token !== undefined && { authorization: `Bearer ${token}` }),
          ...(body instanceof Buffer && { "content-type": "application/octet-stream" }),
        },
        ...(body !== undefined && { payload: body }),
      });
      const json = answer.body === "" ? undefined : answer.json();
      return { status: answer.statusCode, code: json?.code, body: json, headers: answer.headers };
    },
    async close() {
      await api.close();
      await audit.close();
      await store.close();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

export type SecuredApi = Awaited<ReturnType<typeof securedApi>>;
