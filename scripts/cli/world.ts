import { type Api, createApi } from "./api.js";
import { credentialsFor } from "./credentials.js";

/** What a command sees of the process that runs it. */
export type World = {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly nowMs: () => number;
};

export type Output = {
  write(text: string): void;
  readonly isTerminal: boolean;
  /** Characters in a line. */
  readonly width: number;
};

/** Options that every command takes. */
export type GlobalOptions = {
  readonly url?: string;
  readonly json?: boolean;
};

export const defaultUrl = "http://127.0.0.1:7480";

export function urlOf({ env }: World, { url }: GlobalOptions): string {
  return url ?? env.TRIBUTARY_URL ?? defaultUrl;
}

export function apiOf(world: World, options: GlobalOptions): Api {
  const url = urlOf(world, options);
  return createApi({ url, credentials: () => credentialsFor(world.env, url) });
}

/** Prints a result: as JSON when the user asked for it, else as `readable` gives it. */
export function show(
  { stdout }: World,
  { json }: GlobalOptions,
  value: unknown,
  readable: () => string,
): void {
  stdout.write(json === true ? `${JSON.stringify(value, null, 2)}\n` : readable());
}
