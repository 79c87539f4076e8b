/** Text without what opens a door, and how many such places there were in it. */
export type Redacted = { readonly text: string; readonly places: number };

type Rule = { readonly pattern: RegExp; readonly shown: string };

/** Names whose values are secrets, wherever they stand: a setting, a header, a member of JSON. */
const SECRET_NAME = String.raw`[\w-]*(?:password|passphrase|passwd|secret|token|authorization|cookie|credential|api[_-]?key|private[_-]?key)[\w-]*`;

/** In their order: a wider one would leave nothing for a narrower one to say. */
const rules: readonly Rule[] = [
  {
    pattern:
      /-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)/g,
    shown: "(private key hidden)",
  },
  // Claims and invitations: who reads the log may know which one it was.
  {
    pattern: /\b(t[a-z]1\.[a-z2-7]{12})\.[A-Za-z0-9_-]{20,}(?:\.[A-Za-z0-9_-]+)?/g,
    shown: "$1.(hidden)",
  },
  // A compact JWS or JWE: tokens, signing requests, lists.
  { pattern: /\beyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){2,4}/g, shown: "(token hidden)" },
  // The private part of a JWK (RFC 7518, 6; RFC 8037, 2), and symmetric keys.
  { pattern: /("(?:d|k|p|q|dp|dq|qi)"\s*:\s*")[A-Za-z0-9_-]{16,}(")/g, shown: "$1(hidden)$2" },
  { pattern: /\b([a-z][a-z0-9+.-]*:\/\/)[^\s/@"']*@/gi, shown: "$1(hidden)@" },
  { pattern: /\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}/gi, shown: "$1 (hidden)" },
  {
    pattern: new RegExp(String.raw`("${SECRET_NAME}"\s*:\s*)"(?:[^"\\]|\\.)*"`, "gi"),
    shown: '$1"(hidden)"',
  },
  {
    pattern: new RegExp(
      String.raw`\b(${SECRET_NAME}\s*[=:]\s*)(?!["\s]*\(|(?:Bearer|Basic)\s)[^\s,;&}"']+`,
      "gi",
    ),
    shown: "$1(hidden)",
  },
];

/**
 * Hides secrets in what may be any text: keys, claims, tokens, passwords in URLs, and the values of what
 * is named like one. What is hidden is gone: no digest of it is left. Nothing that matches is
 * looked at again, so a file is redacted whole, and its tail cut first at a line.
 */
export function redactText(text: string): Redacted {
  let places = 0;
  let shown = text;
  for (const rule of rules)
    shown = shown.replace(rule.pattern, (...match: string[]) => {
      places++;
      return rule.shown.replace(/\$(\d)/g, (_, group: string) => match[Number(group)] ?? "");
    });
  return { text: shown, places };
}
