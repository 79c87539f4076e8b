import { rm } from "node:fs/promises";
import type { Clock } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random, systemRandom } from "@tributary/proto/host/random.js";
import { readClaim } from "@tributary/proto/identity/claim.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { readSecretFile } from "@tributary/proto/identity/secret-file.js";
import { isRetryable } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type AuthorityPlace, askOverHttps } from "./authority-client.js";
import { buildDateMs } from "./build-date.js";
import { authorityPlaceOf, type GatewayConfig } from "./config.js";
import type { GatewayEvents } from "./events.js";
import {
  type Holder,
  identityFile,
  keepIdentity,
  type OwnIdentity,
  openIdentity,
  ownKey,
} from "./identity-store.js";
import { limits } from "./limits.js";
import { checkFirst } from "./secure-connection.js";

export type EnrolWorld = {
  readonly place: AuthorityPlace;
  /** As far as it is known before anybody was asked. */
  readonly nowMs: () => number;
  readonly random: Random;
};

/**
 * Enrols a gateway, once: makes its key, shows a claim to the cloud whose authority the claim names, and
 * keeps what it is given. To ask again, after an answer that was lost, gets the same. Throws the
 * refusal's code, `claim-malformed` among them, or what `askOverHttps` throws.
 */
export async function enrolGateway(
  holder: Holder,
  text: string,
  { place, nowMs, random }: EnrolWorld,
): Promise<OwnIdentity> {
  const claim = readClaim(text.trim());
  if (claim === undefined)
    throw new TributaryError(
      "claim-malformed",
      "this is no claim: it looks like tc1.<id>.<secret>.<anchor>",
    );
  const key = await ownKey(holder.dataDir);
  const { gateway: name, site } = holder;
  const nonce = Buffer.from(random.bytes(24)).toString("base64url");
  const iat = Math.max(0, Math.floor(nowMs() / 1000));
  const request = await writeRequest(
    { kind: "gateway", name, site, claim: claim.id, nonce, iat },
    key,
  );
  let fleet = "";
  const check = checkFirst(claim.anchor, nowMs, (found) => {
    fleet = found;
  });
  const answer = await askOverHttps(place, check, text.trim(), request);
  if (!answer.ok)
    throw new TributaryError(answer.code, answer.message, { retryable: isRetryable(answer.code) });
  return keepIdentity(holder, fleet, key, answer.grant);
}

/**
 * The identity that a gateway starts with: the one it has, or one by the claim that lies in its data
 * directory, however long the cloud is out of reach or somebody has to accept it; undefined where
 * there is neither. The claim is forgotten once it has served. Throws what asking again cannot mend.
 */
export async function startingIdentity(
  holder: Holder,
  world: EnrolWorld & { readonly clock: Clock; readonly events: GatewayEvents },
): Promise<OwnIdentity | undefined> {
  const { clock, random, events } = world;
  const file = identityFile(holder.dataDir, "claim");
  for (let attempt = 0; ; attempt++) {
    const known = await openIdentity(holder);
    const claim = known === undefined ? await readClaimFile(file) : undefined;
    if (known !== undefined || claim === undefined) {
      if (known !== undefined) await rm(file, { force: true });
      return known;
    }
    try {
      const identity = await enrolGateway(holder, claim, world);
      const { fleet, toMs: endsMs } = identity;
      events({ level: "info", name: "enrolled", gateway: holder.gateway, fleet, endsMs });
    } catch (cause) {
      if (!(cause instanceof TributaryError) || !cause.retryable) throw cause;
      const waitMs = jitteredBackoff(random, attempt, limits.enrolBackoff);
      const { code, message } = cause;
      const retryMs = Math.round(waitMs);
      events({ level: "warn", name: "enrolment-waits", code, message, retryMs });
      await new Promise<void>((resolve) => clock.setTimer(waitMs, resolve));
    }
  }
}

/**
 * Enrols without starting, as a person asks for it: with a claim, or the one in the data directory. `news`
 * is false for a gateway that has an identity already. Failures: `claim-missing`; those of `enrolGateway`.
 */
export async function enrolNow(config: GatewayConfig, claim: string | undefined, clock: Clock) {
  const file = identityFile(config.dataDir, "claim");
  const known = await openIdentity(config);
  if (known !== undefined) return { ...named(known), news: false };
  const text = claim ?? (await readClaimFile(file));
  if (text === undefined)
    throw new TributaryError(
      "claim-missing",
      `there is no claim: name one, or lay it into ${file}`,
    );
  const identity = await enrolGateway(config, text, {
    place: authorityPlaceOf(config),
    nowMs: () => Math.max(clock.nowMs(), buildDateMs),
    random: systemRandom(),
  });
  await rm(file, { force: true });
  return { ...named(identity), news: true };
}

function named({ fleet, name, site, toMs }: OwnIdentity) {
  return { fleet, name, site, toMs };
}

async function readClaimFile(file: string): Promise<string | undefined> {
  try {
    return await readSecretFile(file);
  } catch (cause) {
    if (cause instanceof TributaryError && cause.code === "secret-missing") return undefined;
    throw cause;
  }
}
