import { loadKernel } from "@tributary/proto/host/wasm.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import { planted } from "./planted.js";

export const sumWraps = planted(
  "a gateway's kernel keeps 32 bits of a sum: a large one wraps",
  "fold",
  30,
  () => ({
    kernel(): Kernel {
      const kernel = loadKernel();
      return {
        ...kernel,
        lease(coordinates) {
          const basin = kernel.lease(coordinates);
          return Object.assign(Object.create(basin) as typeof basin, {
            read: () => basin.read().map((value) => BigInt.asIntN(32, value)),
          });
        },
      };
    },
  }),
);
