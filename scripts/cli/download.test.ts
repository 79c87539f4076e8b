import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { sha256 } from "@tributary/proto/host/digest.js";
import { saveDownload } from "./download.js";

test("a file that appears during the download is not replaced without force", async () => {
  const folder = mkdtempSync(join(tmpdir(), "tributary-download-"));
  try {
    const file = join(folder, "model.safetensors");
    const bytes = Buffer.from("the model");
    const chunks = async function* () {
      yield bytes.subarray(0, 3);
      writeFileSync(file, "another's");
      yield bytes.subarray(3);
    };
    const download = { digest: sha256(bytes), file };
    await assert.rejects(
      saveDownload({ ...download, chunks: chunks(), force: false }),
      /exists.*--force/,
    );
    assert.equal(readFileSync(file, "utf8"), "another's");
    assert.equal(await saveDownload({ ...download, chunks: chunks(), force: true }), 9);
    assert.equal(readFileSync(file, "utf8"), "the model");
    assert.deepEqual(readdirSync(folder), ["model.safetensors"]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
