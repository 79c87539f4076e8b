import { Readable } from "node:stream";
import type { ReadFile } from "@tributary/proto/host/disk.js";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Models } from "../models.js";
import type { ModelRow } from "../store/rows.js";
import { apiLimits } from "./limits.js";
import { problem, sendProblem } from "./problem.js";

type Range = { readonly first: number; readonly last: number };

/**
 * Sends a model's file, or one range of it (RFC 9110, 14.2). Its digest is a strong validator, so
 * a download that broke goes on with Range and If-Range.
 */
export async function sendFile(
  request: FastifyRequest,
  reply: FastifyReply,
  models: Models,
  model: ModelRow,
): Promise<FastifyReply> {
  const tag = `"${model.digest}"`;
  reply.headers({
    etag: tag,
    "accept-ranges": "bytes",
    "content-disposition": `attachment; filename="${model.id}.safetensors"`,
  });
  if (matches(request.headers["if-none-match"], tag)) return reply.code(304).send();
  const condition = request.headers["if-range"];
  const wanted = condition === undefined || condition === tag ? request.headers.range : undefined;
  const range = parseRange(wanted, model.bytes);
  if (range === "unsatisfiable") {
    reply.header("content-range", `bytes */${model.bytes}`);
    const detail = `the file has ${model.bytes} bytes`;
    return sendProblem(reply, problem("range-not-satisfiable", detail));
  }
  const file = await models.open(model.digest);
  const { first, last } = range ?? { first: 0, last: model.bytes - 1 };
  if (range !== undefined)
    reply.code(206).header("content-range", `bytes ${first}-${last}/${model.bytes}`);
  return reply
    .header("content-type", "application/octet-stream")
    .header("content-length", last - first + 1)
    .send(Readable.from(piecesOf(file, first, last), { objectMode: false, highWaterMark: 1 }));
}

async function* piecesOf(file: ReadFile, first: number, last: number): AsyncGenerator<Uint8Array> {
  try {
    for (let at = first; at <= last; at += apiLimits.fileChunkBytes)
      yield await file.read(at, Math.min(apiLimits.fileChunkBytes, last - at + 1));
  } finally {
    await file.close();
  }
}

function matches(header: string | undefined, tag: string): boolean {
  return (header ?? "").split(",").some((one) => ["*", tag].includes(one.trim()));
}

/** One byte range. Undefined for none, and for what may be ignored: other units, several ranges. */
function parseRange(header: string | undefined, size: number): Range | "unsatisfiable" | undefined {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? "");
  if (match === null) return undefined;
  const [from, to] = [match[1] ?? "", match[2] ?? ""];
  if (from === "" && to === "") return undefined;
  if (from === "") {
    const length = Math.min(Number(to), size);
    return length === 0 ? "unsatisfiable" : { first: size - length, last: size - 1 };
  }
  const first = Number(from);
  const last = to === "" ? size - 1 : Math.min(Number(to), size - 1);
  if (to !== "" && Number(to) < first) return undefined;
  return first >= size ? "unsatisfiable" : { first, last };
}
