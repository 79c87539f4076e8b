import { readFile, stat } from "node:fs/promises";
import { parseDocument } from "yaml";
import { reasonOf, usageFailure } from "./failure.js";
import { cliLimits } from "./limits.js";

export type Params = Readonly<Record<string, unknown>>;

/** Reads the parameters of a session from a YAML or JSON file. */
export async function readSessionFile(file: string): Promise<Params> {
  let text: string;
  try {
    const { size } = await stat(file);
    if (size > cliLimits.sessionFileBytesMax) {
      throw new Error(`it is longer than ${cliLimits.sessionFileBytesMax} bytes`);
    }
    text = await readFile(file, "utf8");
  } catch (error) {
    throw usageFailure(`cannot read the session file ${file}: ${reasonOf(error)}`);
  }
  const document = parseDocument(text);
  const broken = document.errors[0];
  if (broken !== undefined) throw usageFailure(`${file} is not YAML: ${broken.message}`);
  const params: unknown = document.toJS({ maxAliasCount: 50 });
  if (typeof params !== "object" || params === null || Array.isArray(params)) {
    throw usageFailure(`${file} must hold a map of session parameters`);
  }
  return params as Params;
}

/**
 * The parameters with one of them set. `path` is its name, with dots into a group, as
 * `training.epochs`; the maps on the way are copied, not changed.
 */
export function withParam(params: Params, path: string, value: unknown): Params {
  const [first = "", ...rest] = path.split(".");
  if (first === "" || first === "__proto__") throw usageFailure(`"${path}" names no parameter`);
  if (rest.length === 0) return { ...params, [first]: value };
  const inner = params[first];
  const group = typeof inner === "object" && inner !== null ? (inner as Params) : {};
  return { ...params, [first]: withParam(group, rest.join("."), value) };
}

/** Splits `training.epochs=2`; the value is read as YAML, so that numbers are numbers. */
export function parseAssignment(text: string): { readonly path: string; readonly value: unknown } {
  const at = text.indexOf("=");
  if (at < 1) throw usageFailure(`"${text}" is not NAME=VALUE`);
  const document = parseDocument(text.slice(at + 1));
  const broken = document.errors[0];
  if (broken !== undefined) {
    throw usageFailure(`the value of "${text}" is not YAML: ${broken.message}`);
  }
  return { path: text.slice(0, at), value: document.toJS({ maxAliasCount: 50 }) };
}
