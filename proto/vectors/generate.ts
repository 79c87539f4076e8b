import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import type { Jwks } from "../identity/keyring.js";
import { encodeCbor } from "../wire/cbor.js";
import { encodeEnvelope } from "../wire/envelope.js";
import { updatePreimage } from "../wire/update.js";

/**
 * Writes proto/vectors/wire.json: `node proto/dist/vectors/generate.js`. The file is committed, so
 * that a client in another language needs nothing of ours; the tests hold the code against it.
 */

const digestOf = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest("hex");
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const sha = (text: string) => Uint8Array.from(Buffer.from(digestOf(text), "hex"));

const manifest = {
  model: "press-line.3",
  digest: digestOf("a model"),
  bytes: 300_000,
  chunkBytes: 262_144,
  chunks: Uint8Array.from([...sha("first chunk"), ...sha("second chunk")]),
};
const layout = [
  { name: "dense/kernel", shape: [2, 3] },
  { name: "dense/bias", shape: [3] },
];
const plan = {
  version: 1,
  round: "press-line.4",
  session: "press-line",
  task: "train",
  base: manifest,
  layout,
  grid: { fractionBits: [20, 20], range: 8 },
  encoding: "f32",
  saturate: false,
  nMax: 100_000,
  totalMax: 10_000_000,
  training: { epochs: 1, learningRate: 0.1, batchSize: 32, shuffle: true, note: "as usual" },
  fraction: 1,
  overSelection: 0,
  siteQuorum: 1,
  siteDeadlineMs: 20_000,
  deadlineMs: 30_000,
};
const payload = Uint8Array.from(
  Buffer.from(Float32Array.of(0, 0.5, -0.25, 1, -1, 2, -2, 0.125, 8).buffer),
);
const beginBody = {
  round: "press-line.4",
  gateway: "gw-1",
  base: "press-line.3",
  baseDigest: manifest.digest,
  samples: 128,
  encoding: "f32" as const,
  bytes: payload.length,
  saturated: 0,
  metrics: { loss: 524_288, accuracy: 943_718 },
};
/** Its requests and tokens are of fixed keys. */
const identity = JSON.parse(
  readFileSync(new URL("../../vectors/identity.json", import.meta.url), "utf8"),
) as {
  readonly jwks: Jwks;
  readonly requests: readonly { readonly text: string }[];
  readonly denylists: readonly { readonly text: string }[];
  readonly deviceTokens: { readonly valid: readonly { readonly text: string }[] };
};
const petition = { request: identity.requests[0]?.text };
/** Its form alone counts here. */
const certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
const grant = {
  certificate,
  serial: "4a0b6c",
  notAfterMs: 1_902_592_000_000,
  chain: [],
  anchors: [certificate],
  token: identity.deviceTokens.valid[0]?.text,
  jwks: identity.jwks,
};
const preimage = updatePreimage("press-7", beginBody);
const digest = createHash("sha256").update(preimage).update(payload).digest("hex");
const begin = { ...beginBody, digest };
/** Of the length of one; it is not checked here. */
const signature = Uint8Array.from([...sha("first half"), ...sha("second half")]);

type Way = "up" | "down" | "all";
const shown = (_key: string, value: unknown) =>
  value instanceof Uint8Array ? { $hex: hex(value) } : value;

function valid(way: Way, kind: string, header: object, body = new Uint8Array(0)) {
  return { way, kind, hex: hex(encodeEnvelope(header, body)), header, payload: hex(body) };
}

const without = (name: string) =>
  Object.fromEntries(Object.entries(begin).filter(([key]) => key !== name));

/** An envelope around CBOR that no sane encoder writes. */
function raw(version: number, headerLength: number, rest: string): string {
  const prefix = Buffer.alloc(5);
  prefix[0] = version;
  prefix.writeUInt32BE(headerLength, 1);
  return prefix.toString("hex") + rest;
}
const badBegin = (change: object) => hex(encodeEnvelope({ ...begin, ...change }));
const badOffer = (change: object) =>
  hex(encodeEnvelope({ gateway: "gw-1", plan: { ...plan, ...change }, remainingMs: 1 }));

/** A whole list in one piece. */
const list = Uint8Array.from(Buffer.from(identity.denylists[0]?.text ?? ""));
const listPart = { sequence: 2, offset: 0, bytes: list.length };
const claimed = hex(encodeEnvelope({ ...petition, claim: "tc1" }));
const anchorless = hex(encodeEnvelope({ ...grant, anchors: [] }));
const invalid = [
  ["nothing", "up", "hello", "", "malformed"],
  ["shorter than the prefix", "up", "hello", "01000000", "malformed"],
  ["version 0", "up", "hello", raw(0, 1, "a0"), "protocol-version"],
  ["version 2", "up", "hello", raw(2, 1, "a0"), "protocol-version"],
  ["version 255", "up", "hello", raw(255, 1, "a0"), "protocol-version"],
  ["a header that announces more than there is", "up", "hello", raw(1, 9, "a0"), "malformed"],
  ["a header that announces 4 GiB", "up", "hello", raw(1, 0xffffffff, "a0"), "too-large"],
  ["a header past the bound", "up", "hello", raw(1, 16_385, "a0"), "too-large"],
  ["an empty header", "up", "hello", raw(1, 0, ""), "malformed"],
  [
    "JSON in place of CBOR",
    "up",
    "hello",
    raw(1, 2, Buffer.from("{}").toString("hex")),
    "malformed",
  ],
  ["an array in place of a map", "up", "hello", raw(1, 1, "80"), "malformed"],
  ["an indefinite map", "up", "hello", raw(1, 2, "bfff"), "malformed"],
  ["a tagged header", "up", "hello", raw(1, 2, "c0a0"), "malformed"],
  ["two CBOR items", "up", "hello", raw(1, 2, "a0a0"), "malformed"],
  ["text that ends early", "up", "hello", raw(1, 4, "a1637364"), "malformed"],
  ["seven levels deep", "up", "hello", raw(1, 8, "8181818181818180"), "too-deep"],
  ["an array of 2^32 - 1 items", "up", "hello", raw(1, 5, "9affffffff"), "too-large"],
  [
    "an unknown field",
    "up",
    "hello",
    hex(encodeEnvelope({ sdk: "x", attributes: {}, extra: 1 })),
    "malformed",
  ],
  ["a missing field", "up", "hello", hex(encodeEnvelope({ sdk: "x" })), "malformed"],
  [
    "a nested attribute",
    "up",
    "hello",
    hex(encodeEnvelope({ sdk: "x", attributes: { a: { b: 1 } } })),
    "malformed",
  ],
  [
    "33 attributes",
    "up",
    "hello",
    hex(
      encodeEnvelope({
        sdk: "x",
        attributes: Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`a${i}`, i])),
      }),
    ),
    "malformed",
  ],
  ["a round id with a path in it", "up", "begin", badBegin({ round: "../../x.1" }), "malformed"],
  ["a round id without a number", "up", "begin", badBegin({ round: "press-line" }), "malformed"],
  [
    "a round number with a leading zero",
    "up",
    "begin",
    badBegin({ round: "press-line.04" }),
    "malformed",
  ],
  ["a digest in capitals", "up", "begin", badBegin({ digest: digest.toUpperCase() }), "malformed"],
  ["a digest that is too short", "up", "begin", badBegin({ baseDigest: "ab" }), "malformed"],
  ["samples as text", "up", "begin", badBegin({ samples: "128" }), "malformed"],
  ["samples NaN", "up", "begin", badBegin({ samples: Number.NaN }), "malformed"],
  ["samples infinite", "up", "begin", badBegin({ samples: Number.POSITIVE_INFINITY }), "malformed"],
  ["negative bytes", "up", "begin", badBegin({ bytes: -1 }), "malformed"],
  ["a fractional metric", "up", "begin", badBegin({ metrics: { loss: 0.5 } }), "malformed"],
  [
    "a metric past the bound",
    "up",
    "begin",
    badBegin({ metrics: { loss: 2 ** 40 + 1 } }),
    "malformed",
  ],
  ["a metric with a bad name", "up", "begin", badBegin({ metrics: { "Loss!": 1 } }), "malformed"],
  ["an encoding nobody knows", "up", "begin", badBegin({ encoding: "f64" }), "malformed"],
  [
    "a signature that is too short",
    "up",
    "begin",
    badBegin({ signature: signature.subarray(1) }),
    "malformed",
  ],
  ["no gateway", "up", "begin", hex(encodeEnvelope(without("gateway"))), "malformed"],
  ["no digest", "up", "begin", hex(encodeEnvelope(without("digest"))), "malformed"],
  [
    "a chunk at a negative offset",
    "up",
    "chunk",
    hex(encodeEnvelope({ round: "s.1", offset: -8 })),
    "malformed",
  ],
  [
    "a chunk at a fractional offset",
    "up",
    "chunk",
    hex(encodeEnvelope({ round: "s.1", offset: 0.5 })),
    "malformed",
  ],
  [
    "a fetch of nothing",
    "up",
    "fetch",
    hex(encodeEnvelope({ model: "s.0", digest, offset: 0, length: 0 })),
    "malformed",
  ],
  [
    "a fetch of more than a chunk",
    "up",
    "fetch",
    hex(encodeEnvelope({ model: "s.0", digest, offset: 0, length: 262_145 })),
    "malformed",
  ],
  [
    "a decline with an open code",
    "up",
    "decline",
    hex(encodeEnvelope({ round: "s.1", code: "because", message: "" })),
    "malformed",
  ],
  ["an enrolment with its claim", "up", "enrol", claimed, "malformed"],
  ["a grant without anchors", "down", "enrolled", anchorless, "malformed"],
  ["an offer of a plan of version 2", "down", "offer", badOffer({ version: 2 }), "malformed"],
  [
    "an offer without one grid entry a tensor",
    "down",
    "offer",
    badOffer({ grid: { fractionBits: [20], range: 8 } }),
    "malformed",
  ],
  [
    "an offer with an infinite range",
    "down",
    "offer",
    badOffer({ grid: { fractionBits: [20, 20], range: Number.POSITIVE_INFINITY } }),
    "malformed",
  ],
  [
    "an offer whose site deadline is past the round's",
    "down",
    "offer",
    badOffer({ siteDeadlineMs: 40_000 }),
    "malformed",
  ],
  [
    "an offer whose manifest lacks a chunk",
    "down",
    "offer",
    badOffer({ base: { ...manifest, chunks: manifest.chunks.subarray(32) } }),
    "malformed",
  ],
  [
    "an offer with a CBOR map as a tensor name",
    "down",
    "offer",
    badOffer({ layout: [{ name: {}, shape: [1] }, layout[1]] }),
    "malformed",
  ],
].map(([name, way, kind, bytes, code]) => ({ name, way, kind, hex: bytes, code }));

const vectors = {
  about:
    'Wire vectors, protocol version 1; proto/README.md says how to read them. Bytes inside headers are {"$hex": ...}.',
  valid: [
    valid("up", "hello", {
      sdk: "example/1.0",
      attributes: { os: "linux", cores: 4, mains: true, load: 0.25 },
    }),
    valid("up", "fetch", {
      model: "press-line.3",
      digest: manifest.digest,
      offset: 262_144,
      length: 37_856,
    }),
    valid("up", "begin", begin),
    valid("up", "begin", { ...begin, signature }),
    valid("up", "chunk", { round: "press-line.4", offset: 0 }, payload),
    valid("up", "decline", {
      round: "press-line.4",
      code: "train-failed",
      message: "out of memory",
    }),
    valid("up", "enrol", petition),
    valid("up", "renew", petition),
    valid("down", "enrolled", grant),
    valid("up", "denylist", listPart, list),
    valid("all", "denylist", listPart, list),
    valid("down", "welcome", { gateway: "gw-1", site: "hall-a", incarnation: "k3v9q2" }),
    valid("down", "offer", { gateway: "gw-1", plan, remainingMs: 19_000 }),
    valid("down", "part", { model: "press-line.3", digest: manifest.digest, offset: 0 }, payload),
    valid("down", "grant", { round: "press-line.4", offset: 0, windowBytes: 1_048_576 }),
    valid("down", "receipt", { round: "press-line.4", digest }),
    valid("down", "refusal", {
      about: "chunk",
      round: "press-line.4",
      code: "chunk-out-of-order",
      message: "send from 262144",
      retryAfterMs: 0,
      expectedOffset: 262_144,
    }),
    valid("down", "closed", { round: "press-line.4" }),
    valid("all", "published", { session: "press-line", manifest, layout }),
    {
      way: "up",
      kind: "chunk",
      hex: raw(1, 27, "a265726f756e6463732e31666f66667365741b0000000000000008"),
      header: { round: "s.1", offset: 8 },
      payload: "",
      note: "a 64-bit integer as other encoders write it",
    },
  ],
  invalid,
  updates: [{ device: "press-7", begin: beginBody, preimage, payload: hex(payload), digest }],
  cborOfPlan: { plan, hex: hex(encodeCbor(plan)) },
};

writeFileSync(
  new URL("../../vectors/wire.json", import.meta.url),
  `${JSON.stringify(vectors, shown, 1)}\n`,
);
