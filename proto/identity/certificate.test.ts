import assert from "node:assert/strict";
import { createPublicKey } from "node:crypto";
import { test } from "node:test";
import { createTestAuthority, type LeafContents } from "../vectors/authority.js";
import { judgeChain, judgeDates, readCertificates } from "./certificate.js";
import { makeKey, publicJwk } from "./keys.js";
import type { Subject } from "./names.js";

const fleet = "acme";
const device: Subject = { fleet, kind: "device", site: "plant", name: "press-7" };
const gateway: Subject = { fleet, kind: "gateway", site: "plant", name: "gw-1" };
const key = makeKey("EdDSA");
const authority = createTestAuthority();
const HOUR_MS = 3_600_000;

function judge(
  shown: readonly string[],
  changes: Partial<{ anchors: string[]; use: "client" | "server"; nowMs: number }> = {},
) {
  const { anchors = [authority.certificate], use = "client", nowMs = Date.now() } = changes;
  return judgeChain(readCertificates(shown.join("")), {
    anchors: readCertificates(anchors.join("")),
    fleet,
    use,
    nowMs,
  });
}

const code = (verdict: ReturnType<typeof judge>) => (verdict.ok ? "ok" : verdict.code);
const leaf = (subject: Subject, contents: Partial<LeafContents> = {}) =>
  authority.certify(subject, key, contents);

test("a certificate of the fleet says who its holder is, with which key, and for how long", () => {
  const [fromMs, toMs] = [Date.UTC(2026, 0, 1), Date.UTC(2026, 0, 31)];
  const judged = judge([leaf(device, { fromMs, toMs })]);
  assert.ok(judged.ok);
  const { certified } = judged;
  assert.deepEqual(certified.subject, device);
  assert.deepEqual(publicJwk(certified.key), publicJwk(createPublicKey(key)));
  assert.deepEqual([certified.fromMs, certified.toMs], [fromMs, toMs]);
  assert.match(certified.serial, /^[0-9a-f]{32}$/);
});

test("none, one of another authority, or one for the other side of TLS, is refused", () => {
  assert.equal(code(judge([])), "certificate-missing");
  const stranger = createTestAuthority();
  const forged = stranger.certify(device, key);
  assert.equal(code(judge([forged])), "certificate-untrusted");
  assert.equal(code(judge([forged, stranger.certificate])), "certificate-untrusted");
  assert.equal(code(judge([leaf(device)], { use: "server" })), "certificate-untrusted");
  assert.equal(code(judge([leaf(gateway)], { use: "server" })), "ok");
  assert.equal(code(judge([leaf(device, { uses: [] })])), "certificate-untrusted");
});

test("an authority is nobody's certificate, and a leaf is no authority", () => {
  assert.equal(code(judge([authority.certificate])), "certificate-untrusted");
  assert.equal(code(judge([leaf(device, { issues: true })])), "certificate-untrusted");
  const below = createTestAuthority("press-7");
  const impostor = authority.certify(device, below.key);
  const made = below.certify({ ...device, name: "press-8" }, key);
  assert.equal(code(judge([made, impostor])), "certificate-untrusted");
  const silent = authority.certify(device, below.key, { issues: false });
  assert.equal(code(judge([made, silent])), "certificate-untrusted");
});

test("whoever trusts the older authority alone takes what the newer one issued, by the cross certificate", () => {
  const newer = createTestAuthority("newer authority");
  const issued = newer.certify(device, key);
  const cross = authority.cross(newer);
  assert.equal(code(judge([issued])), "certificate-untrusted");
  assert.equal(code(judge([issued, cross])), "ok");
  assert.equal(code(judge([issued, newer.certificate, cross])), "ok");
  assert.equal(code(judge([issued], { anchors: [newer.certificate] })), "ok");
});

test("an authority that has ended vouches for nobody", () => {
  const nowMs = Date.now() + 4_000 * 24 * HOUR_MS;
  assert.equal(code(judge([leaf(device)], { nowMs })), "certificate-untrusted");
});

test("it names one subject, and one of this fleet", () => {
  const uris = ["tributary:acme/device/plant/press-7", "tributary:acme/device/plant/press-8"];
  assert.equal(code(judge([leaf(device, { uris })])), "certificate-untrusted");
  assert.equal(code(judge([leaf(device, { uris: [] })])), "certificate-untrusted");
  for (const uri of ["https://acme/press-7", "tributary:acme/device/plant/a,URI:b", "tributary:"])
    assert.equal(code(judge([leaf(device, { uris: [uri] })])), "certificate-untrusted", uri);
  assert.equal(code(judge([leaf({ ...device, fleet: "other" })])), "certificate-subject");
});

test("it is valid from its first to its last second, give or take a minute", () => {
  const dates = { fromMs: HOUR_MS, toMs: 2 * HOUR_MS };
  const at = (nowMs: number) => judgeDates(dates, nowMs)?.code;
  assert.equal(at(HOUR_MS - 60_001), "certificate-not-yet-valid");
  assert.equal(at(HOUR_MS - 60_000), undefined);
  assert.equal(at(2 * HOUR_MS + 59_999), undefined);
  assert.equal(at(2 * HOUR_MS + 60_000), "certificate-expired");
  assert.ok(judgeDates({ fromMs: Number.NaN, toMs: Number.NaN }, 0));
});
