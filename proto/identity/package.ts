import type { KeyObject } from "node:crypto";
import { limits } from "../wire/limits.js";
import { type PackageStatement, packageStatementSchema } from "../wire/package.js";
import type { PlanPackage } from "../wire/plan.js";
import { refuse, type Verdict } from "../wire/verdict.js";
import { openJws, signJws } from "./jws.js";
import { algorithmOf, publicJwk, publicKey, thumbprint } from "./keys.js";

const PACKAGE = "tributary-package+jwt";

/**
 * Signs what a package is with its maker's Ed25519 key, which the header names whole: who trusts the
 * maker knows the key's thumbprint. Throws RangeError for another kind of key, and for a statement
 * that is too long to travel in a plan.
 */
export async function signPackage(statement: PackageStatement, key: KeyObject): Promise<string> {
  const jwk = publicJwk(key);
  const algorithm = algorithmOf(jwk);
  if (algorithm !== "EdDSA") throw new RangeError("packages are signed with an Ed25519 key");
  const text = await signJws(statement, { typ: PACKAGE, jwk }, { key, algorithm });
  if (text.length > limits.packageStatementChars)
    throw new RangeError(
      `the signed statement has ${text.length} characters; at most ${limits.packageStatementChars}`,
    );
  return text;
}

export type SignedPackage = {
  readonly statement: PackageStatement;
  /** Thumbprint of the key that signed it. Whether that is to be trusted is the reader's to say. */
  readonly signer: string;
};

/** Opens a signed statement. Says who signed it, and that they did; not that they may. */
export async function openPackage(
  text: string,
): Promise<Verdict<SignedPackage, "package-malformed" | "package-signature">> {
  const opened = await openJws(text, {
    typ: PACKAGE,
    charsMax: limits.packageStatementChars,
    keyOf: ({ jwk }) =>
      jwk?.kty === "OKP" ? { key: publicKey(jwk), algorithm: "EdDSA" } : undefined,
  });
  if (!opened.ok) {
    const code = opened.fault === "signature" ? "package-signature" : "package-malformed";
    return refuse(code, `the package's statement: ${opened.message}`);
  }
  const { header, payload } = opened;
  const statement = packageStatementSchema.safeParse(payload);
  if (!statement.success || header.jwk === undefined) {
    const issue = statement.error?.issues[0];
    return refuse(
      "package-malformed",
      `the package's statement: ${issue?.path.join(".")}: ${issue?.message}`,
    );
  }
  return { ok: true, statement: statement.data, signer: await thumbprint(header.jwk) };
}

/** Opens the statement of a plan's package, and checks that the file to fetch is the one it is of. */
export async function openPlanPackage({
  statement: text,
  manifest,
}: PlanPackage): Promise<Verdict<SignedPackage, "package-malformed" | "package-signature">> {
  const opened = await openPackage(text);
  if (!opened.ok) return opened;
  const { package: id, digest, bytes } = opened.statement;
  return id === manifest.model && digest === manifest.digest && bytes === manifest.bytes
    ? opened
    : refuse("package-malformed", `the plan's file ${manifest.model} is not the statement's ${id}`);
}
