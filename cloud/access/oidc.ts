import { identityLimits } from "@tributary/proto/identity/limits.js";
import type { Code } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { createRemoteJWKSet, decodeJwt, errors, type JWTPayload, jwtVerify } from "jose";
import { accessLimits } from "./limits.js";

/** An OpenID Connect provider whose access tokens callers may show. */
export type ProviderConfig = {
  /** As its tokens name it, to the character. */
  readonly issuer: string;
  /** Where its public keys are (RFC 7517). */
  readonly jwksUrl: string;
  /** Whom its tokens must be for: this API. */
  readonly audience: string;
  /** Values of `typ` that its access tokens have. RFC 9068 has one; some providers say `JWT`. */
  readonly tokenTypes: readonly string[];
};

export type Provider = {
  /** Whether a text says that it is a token of the provider; nothing of it is checked yet. */
  issued(token: string): boolean;
  /**
   * Judges a token; the same refusals as for our own. Throws `provider-unreachable`, retryable, while
   * the provider's keys cannot be had.
   */
  verify(token: string, nowMs: number): Promise<Verdict<{ readonly person: Person }>>;
};

type Person = { readonly subject: string; readonly name: string };

/** Signatures with a public key alone: a secret shared with a provider is none. */
const ALGORITHMS = ["EdDSA", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256"];

export function createProvider(config: ProviderConfig): Provider {
  const keys = createRemoteJWKSet(new URL(config.jwksUrl), {
    timeoutDuration: accessLimits.providerMs,
    cooldownDuration: accessLimits.providerPauseMs,
    cacheMaxAge: accessLimits.providerKeysMs,
  });
  const types = new Set(config.tokenTypes.map(plainType));
  return {
    issued(token) {
      try {
        return token.length <= identityLimits.tokenChars && decodeJwt(token).iss === config.issuer;
      } catch {
        return false;
      }
    },
    async verify(token, nowMs) {
      try {
        const { payload, protectedHeader } = await jwtVerify(token, keys, {
          issuer: config.issuer,
          audience: config.audience,
          algorithms: ALGORITHMS,
          clockTolerance: identityLimits.leewaySeconds,
          currentDate: new Date(nowMs),
          requiredClaims: ["exp", "sub"],
        });
        if (!types.has(plainType(protectedHeader.typ ?? "")))
          return refuse("token-kind", `the token's typ must be ${config.tokenTypes.join(" or ")}`);
        return personOf(payload);
      } catch (error) {
        return refusalOf(error);
      }
    },
  };
}

/** A media type may be written without `application/` (RFC 7515, 4.1.9). */
function plainType(typ: string): string {
  return typ.toLowerCase().replace(/^application\//, "");
}

function personOf({ sub = "", name, email }: JWTPayload): Verdict<{ readonly person: Person }> {
  if (sub === "" || sub.length > accessLimits.subjectChars || /[\p{Cc}\p{Cs}]/u.test(sub))
    return refuse("token-malformed", "the token's sub cannot be used");
  const shown = [name, email, sub].find((one) => typeof one === "string" && one !== "");
  const chars = identityLimits.displayNameChars;
  return { ok: true, person: { subject: `oidc:${sub}`, name: String(shown).slice(0, chars) } };
}

function refusalOf(error: unknown): Refusal {
  if (error instanceof errors.JWTExpired) return refuse("token-expired", "the token has ended");
  if (error instanceof errors.JWTClaimValidationFailed)
    return refuse(
      byClaim[error.claim] ?? "token-malformed",
      `the token's ${error.claim} is not what it must be`,
    );
  if (
    error instanceof errors.JWSSignatureVerificationFailed ||
    error instanceof errors.JOSEAlgNotAllowed ||
    error instanceof errors.JWKSNoMatchingKey ||
    error instanceof errors.JWKSMultipleMatchingKeys
  )
    return refuse("token-signature", "the signature is not one of the provider's keys");
  if (error instanceof errors.JWTInvalid || error instanceof errors.JWSInvalid)
    return refuse("token-malformed", "the token is none");
  const why = error instanceof Error ? error.message : String(error);
  throw new TributaryError("provider-unreachable", `the provider's keys cannot be had: ${why}`, {
    retryable: true,
    cause: error,
  });
}

const byClaim: Readonly<Record<string, Code>> = {
  iss: "token-issuer",
  aud: "token-audience",
  nbf: "token-not-yet-valid",
};
