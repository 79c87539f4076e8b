import { request as plainRequest } from "node:http";
import { type RequestOptions, request as secureRequest } from "node:https";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import { readSubjectUri } from "@tributary/proto/identity/names.js";

/** What a command shows to the cloud, and whom it takes for it. */
export type Credentials = {
  readonly token?: string | undefined;
  /** The authorities' certificates in PEM; without them those of the system. */
  readonly anchors?: readonly string[] | undefined;
};

export type Sent = {
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | undefined;
  readonly anchors?: readonly string[] | undefined;
  /** Ends the exchange, the answer's body too. */
  readonly signal: AbortSignal;
};

export type Answered = { readonly status: number; readonly body: AsyncIterable<Uint8Array> };

/** One request over HTTP/1.1, with a fleet's own authority where one is given. */
export function exchange(target: URL, sent: Sent): Promise<Answered> {
  const { method, headers, body, anchors, signal } = sent;
  const options: RequestOptions = {
    method,
    signal,
    headers: { ...headers, ...(body !== undefined && { "content-length": body.length }) },
    ...(anchors !== undefined && { ca: [...anchors], checkServerIdentity: isCloud }),
  };
  const send = target.protocol === "https:" ? secureRequest : plainRequest;
  return new Promise((resolve, reject) => {
    const request = send(target, options, (response) =>
      resolve({ status: response.statusCode ?? 0, body: response as AsyncIterable<Uint8Array> }),
    );
    request.on("error", reject);
    request.end(body);
  });
}

/** A fleet's authority says who the cloud is; that it also is known by a host's name is not needed. */
function isCloud(host: string, certificate: PeerCertificate): Error | undefined {
  const names = certificate.subjectaltname?.split(", ") ?? [];
  const cloud = names.some(
    (name) =>
      name.startsWith("URI:") && readSubjectUri(name.slice("URI:".length))?.kind === "cloud",
  );
  return cloud ? undefined : checkServerIdentity(host, certificate);
}
