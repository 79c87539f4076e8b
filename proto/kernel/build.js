// Compiles the kernel to dist/kernel/fold.wasm; does nothing when that is newer than its sources.
import { mkdir, rename, stat, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const source = fileURLToPath(new URL("./fold.as.ts", import.meta.url));
const self = fileURLToPath(import.meta.url);
const folder = fileURLToPath(new URL("../dist/kernel/", import.meta.url));
const target = `${folder}fold.wasm`;

async function modifiedMs(path) {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

async function isCurrent() {
  const built = await modifiedMs(target);
  return built !== undefined && built > Math.max(await modifiedMs(source), await modifiedMs(self));
}

async function build() {
  const { default: asc } = await import("assemblyscript/asc");
  let wasm;
  let diagnostics = "";
  const options = [
    "--outFile",
    "fold.wasm",
    "--runtime",
    "stub",
    "--enable",
    "simd",
    "--importMemory",
  ];
  const { error } = await asc.main(
    [source, "--baseDir", "/", ...options, "-O3", "--noAssert", "--converge"],
    {
      stderr: {
        write(text) {
          diagnostics += text;
        },
      },
      writeFile(name, contents) {
        if (name.endsWith("fold.wasm")) wasm = contents;
      },
    },
  );
  if (error || wasm === undefined) {
    throw new Error(`the kernel does not compile:\n${diagnostics}`, { cause: error });
  }
  await mkdir(folder, { recursive: true });
  // Renamed into place, so that two builds at once cannot leave half a file.
  const partial = `${target}.${process.pid}`;
  await writeFile(partial, wasm);
  await rename(partial, target);
}

if (!(await isCurrent())) await build();
