import { type AccessStore, accessQueries } from "./access.js";
import { type AuditStore, audited, auditQueries } from "./audit.js";
import { contributionQueries } from "./contributions.js";
import { openEmbedded } from "./embedded.js";
import { fleetQueries } from "./fleet.js";
import { type IdentityStore, identityQueries } from "./identities.js";
import { migrate } from "./migrations.js";
import { modelQueries } from "./models.js";
import { type PackageStore, packageQueries } from "./packages.js";
import { roundQueries } from "./rounds.js";
import { openServer } from "./server.js";
import { sessionQueries } from "./sessions.js";
import type { Sql } from "./sql.js";
import type { Store } from "./store.js";
import { telemetryQueries } from "./telemetry.js";

/**
 * Opens the store: on a PostgreSQL server where `url` names one, else embedded in `<dataDir>/pg`.
 * Brings its schema to this build's version. Failures: `store-version`, `store-unreachable`,
 * `store-in-use`, `store-failed`.
 */
export async function openStore(place: {
  readonly dataDir: string;
  readonly url?: string | undefined;
}): Promise<SqlStore> {
  const sql =
    place.url === undefined ? await openEmbedded(place.dataDir) : await openServer(place.url);
  return createStore(sql);
}

/** The store with what only SQL keeps: who is enrolled, who may do what, and who did. */
export type SqlStore = Store & {
  readonly identities: IdentityStore;
  readonly access: AccessStore;
  readonly audit: AuditStore;
  readonly packages: PackageStore;
};

/** The store over an open driver, which it closes, also when the schema cannot be used. */
export async function createStore(driver: Sql): Promise<SqlStore> {
  try {
    await migrate(driver);
  } catch (error) {
    await driver.close();
    throw error;
  }
  const sql = audited(driver);
  return {
    ...sessionQueries(sql),
    ...roundQueries(sql),
    ...modelQueries(sql),
    ...contributionQueries(sql),
    ...fleetQueries(sql),
    ...telemetryQueries(sql),
    identities: identityQueries(sql),
    access: accessQueries(sql),
    audit: auditQueries(driver),
    packages: packageQueries(sql),
    async ping() {
      await sql.read("SELECT 1");
    },
    close: () => sql.close(),
  };
}
