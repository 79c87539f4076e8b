import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type Call = { readonly method: string; readonly path: string; readonly body: Buffer };

export type Answer = {
  readonly status?: number;
  readonly json?: unknown;
  readonly bytes?: Uint8Array;
  readonly type?: string;
  /** Sends the head and half of the bytes, then nothing. */
  readonly stall?: boolean;
};

export type FakeCloud = {
  readonly url: string;
  readonly calls: readonly Call[];
  close(): Promise<void>;
};

/** A server that answers as a test wants, on a free port of the loopback. */
export async function fakeCloud(answer: (call: Call) => Answer | undefined): Promise<FakeCloud> {
  const calls: Call[] = [];
  const server = createServer((request, response) => {
    void receive(request).then((call) => {
      calls.push(call);
      send(response, answer(call) ?? unknownRoute);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    calls,
    close: async () => {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}

/** A problem document as the cloud sends it. */
export function problem(status: number, code: string, detail: string, issues?: object[]): Answer {
  const json = { type: `urn:${code}`, title: "a problem", status, detail, code, issues };
  return { status, json, type: "application/problem+json" };
}

const unknownRoute = problem(404, "unknown-route", "no such route");

async function receive(request: IncomingMessage): Promise<Call> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  const path = (request.url ?? "").replace(/^\/api\/v1/, "");
  return { method: request.method ?? "", path, body: Buffer.concat(parts) };
}

function send(response: ServerResponse, { status = 200, json, bytes, type, stall }: Answer): void {
  const content = bytes ?? Buffer.from(json === undefined ? "" : JSON.stringify(json));
  response.writeHead(status, {
    "content-type": type ?? (bytes === undefined ? "application/json" : "application/octet-stream"),
    "content-length": content.length,
  });
  if (stall === true) response.write(content.subarray(0, content.length / 2));
  else response.end(content);
}
