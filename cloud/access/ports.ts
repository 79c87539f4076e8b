import type { Clock } from "@tributary/proto/host/clock.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Authority } from "../authority/authority.js";
import type { AccessStore } from "../store/access.js";
import type { Provider } from "./oidc.js";
import type { Projects } from "./projects.js";

export type AccessPorts = {
  readonly authority: Pick<Authority, "fleet" | "jwks" | "signUserToken">;
  readonly store: AccessStore;
  readonly clock: Clock;
  readonly random: Random;
  readonly projects: Projects;
  /** Of another issuer than the fleet's own, where one is set. */
  readonly provider?: Provider | undefined;
};
