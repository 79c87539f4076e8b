import { readFileSync } from "node:fs";
import { createKernel, type Kernel } from "../kernel/kernel.js";

/** The kernel as `npm run build` compiled it. Throws when it is not built. */
export function loadKernel(): Kernel {
  return createKernel(
    new Uint8Array(readFileSync(new URL("../kernel/fold.wasm", import.meta.url))),
  );
}
