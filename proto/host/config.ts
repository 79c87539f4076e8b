import { readFile, stat } from "node:fs/promises";
import { type Document, isMap, LineCounter, parseDocument } from "yaml";
import type { z } from "zod";
import { TributaryError } from "../wire/errors.js";
import { closest } from "./closest.js";

const FILE_BYTES = 1024 * 1024;
const SHOWN_ISSUES = 20;

export type ConfigSource<S extends z.ZodType> = {
  /** YAML or JSON. Without one, only the environment counts. */
  readonly file?: string | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** `TRIBUTARY_GATEWAY_`: `TRIBUTARY_GATEWAY_LISTEN__PORT=1884` sets `listen.port`. */
  readonly envPrefix: string;
  readonly schema: S;
};

/**
 * Reads a config file, lays the environment over it and checks the whole against the schema.
 * Throws `config-unreadable` or `config-invalid`; the message lists every problem with its path,
 * its line where it has one, and for an unknown key the closest known one.
 */
export async function loadConfig<S extends z.ZodType>(
  source: ConfigSource<S>,
): Promise<z.infer<S>> {
  const lines = new LineCounter();
  const document = source.file === undefined ? undefined : await readDocument(source.file, lines);
  const values = document === undefined ? {} : valuesOf(document, source.file ?? "");
  if (typeof values !== "object" || values === null || Array.isArray(values)) {
    throw new TributaryError("config-invalid", `${source.file} must hold a map of settings`);
  }
  const variables = new Map<string, string>();
  const merged = overlay(values as Record<string, unknown>, source, variables);
  const checked = source.schema.safeParse(merged);
  if (checked.success) return checked.data;
  const placeOf = (path: readonly PropertyKey[]) => {
    const variable = variables.get(path.join("."));
    return variable === undefined ? lineOf(document, lines, path) : ` (from ${variable})`;
  };
  const problems = checked.error.issues
    .flatMap((issue) => describe(issue, source.schema))
    .slice(0, SHOWN_ISSUES)
    .map(({ path, message }) => `  ${path.join(".") || "config"}${placeOf(path)}: ${message}`);
  throw new TributaryError(
    "config-invalid",
    `${source.file ?? "the environment"} is not a valid config:\n${problems.join("\n")}`,
  );
}

async function readDocument(file: string, lines: LineCounter): Promise<Document> {
  let text: string;
  try {
    if ((await stat(file)).size > FILE_BYTES) {
      throw new TributaryError("config-invalid", `${file} is longer than ${FILE_BYTES} bytes`);
    }
    text = await readFile(file, "utf8");
  } catch (cause) {
    if (cause instanceof TributaryError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TributaryError("config-unreadable", `cannot read the config file ${file}: ${why}`, {
      cause,
    });
  }
  // Pretty errors quote the source, where secrets may stand.
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const error = document.errors[0] ?? document.warnings[0];
  if (error !== undefined) {
    const { line } = lines.linePos(error.pos[0]);
    throw new TributaryError(
      "config-invalid",
      `${file} is not YAML (line ${line}): ${error.message}`,
    );
  }
  return document;
}

function valuesOf(document: Document, file: string): unknown {
  try {
    return document.toJS({ maxAliasCount: 50 }) ?? {};
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TributaryError("config-invalid", `${file} cannot be read: ${why}`, { cause });
  }
}

function overlay<S extends z.ZodType>(
  values: Record<string, unknown>,
  { env, envPrefix }: ConfigSource<S>,
  variables: Map<string, string>,
): Record<string, unknown> {
  const merged = structuredClone(values);
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith(envPrefix) || text === undefined) continue;
    const path = name.slice(envPrefix.length).split("__").map(camelCase);
    if (path.some((part) => part === "" || Object.hasOwn(Object.prototype, part))) continue;
    set(merged, path, scalar(text));
    variables.set(path.join("."), name);
  }
  return merged;
}

/** `1884` and `true` are what they look like; `007` stays text, for its zeros would be lost. */
function scalar(text: string): unknown {
  const value: unknown = parseDocument(text).toJS();
  return typeof value === "number" && String(value) !== text ? text : value;
}

/** `DATA_DIR` and `dataDir` both name `dataDir`. */
function camelCase(part: string): string {
  if (!/^[A-Z0-9_]+$/.test(part)) return part;
  return part.toLowerCase().replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function set(target: Record<string, unknown>, path: readonly string[], value: unknown): void {
  const [first = "", ...rest] = path;
  if (rest.length === 0) {
    target[first] = value;
    return;
  }
  const inner = target[first];
  const map = typeof inner === "object" && inner !== null ? (inner as Record<string, unknown>) : {};
  target[first] = map;
  set(map, rest, value);
}

type Problem = { readonly path: readonly PropertyKey[]; readonly message: string };

function describe(issue: z.core.$ZodIssue, schema: z.ZodType): Problem[] {
  if (issue.code !== "unrecognized_keys") {
    return [{ path: issue.path, message: plainMessage(issue.message) }];
  }
  const known = keysAt(schema, issue.path);
  return issue.keys.map((key) => {
    const hint = closest(key, known);
    const advice = hint === undefined ? "" : `; did you mean "${hint}"?`;
    return { path: [...issue.path, key], message: `unknown setting${advice}` };
  });
}

/** A wrong or a missing type in the reader's words; other messages are the schema's own. */
function plainMessage(message: string): string {
  const types = /^Invalid input: expected (\w+), received (\w+)$/.exec(message);
  if (types === null) return message;
  const [expected, received] = types.slice(1).map((type) => typeNames[type] ?? type);
  if (received === "undefined") return `is missing; it must be ${expected}`;
  return `must be ${expected}, not ${received}`;
}

const typeNames: Readonly<Record<string, string>> = {
  string: "text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  object: "a map of settings",
  record: "a map of settings",
  array: "a list",
  null: "empty",
};

/** Keys that the schema has at a path, as far as it consists of objects and lists. */
function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
  let at: unknown = schema;
  for (const step of [...path, undefined]) {
    at = unwrapped(at);
    const shape = (at as { shape?: Record<string, unknown> }).shape;
    if (step === undefined) return Object.keys(shape ?? {});
    at = typeof step === "number" ? (at as { element?: unknown }).element : shape?.[String(step)];
    if (at === undefined) return [];
  }
  return [];
}

/** The schema behind `.default()`, `.optional()` and the like. */
function unwrapped(schema: unknown): unknown {
  let at = schema;
  for (;;) {
    const inner = (at as { _zod?: { def?: { innerType?: unknown } } })._zod?.def?.innerType;
    if (inner === undefined) return at;
    at = inner;
  }
}

function lineOf(
  document: Document | undefined,
  lines: LineCounter,
  path: readonly PropertyKey[],
): string {
  for (let length = path.length; length > 0; length--) {
    const parent =
      length === 1 ? document?.contents : document?.getIn(path.slice(0, length - 1), true);
    const key = path[length - 1];
    const pair = isMap(parent)
      ? parent.items.find(({ key: name }) => String(name) === String(key))
      : undefined;
    const range = (pair?.key as { range?: readonly number[] } | undefined)?.range;
    if (range?.[0] !== undefined) return ` (line ${lines.linePos(range[0]).line})`;
  }
  return "";
}

/** A copy for `--print-config` and logs in which the named keys, at any depth, are not shown. */
export function redact(config: unknown, secretKeys: readonly string[]): unknown {
  if (Array.isArray(config)) return config.map((item) => redact(item, secretKeys));
  if (typeof config !== "object" || config === null) return config;
  return Object.fromEntries(
    Object.entries(config).map(([key, value]) => [
      key,
      secretKeys.includes(key) && value !== undefined ? "(hidden)" : redact(value, secretKeys),
    ]),
  );
}
