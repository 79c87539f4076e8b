import { createRequire } from "node:module";
import { dirname, sep } from "node:path";
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";
// Loading the layers registers the gradients of the core's kernels.
import "@tensorflow/tfjs-layers";

/**
 * TensorFlow.js on its WebAssembly backend: the SIMD build with one thread, since the processes of
 * a pilot already fill the cores. Once for a process; further calls return the first one's promise.
 */
export function startBackend(): Promise<void> {
  started ??= start();
  return started;
}

let started: Promise<void> | undefined;

async function start(): Promise<void> {
  const entry = createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm");
  setWasmPaths(dirname(entry) + sep);
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  if (!(await tf.setBackend("wasm")))
    throw new Error("TensorFlow.js could not start its wasm backend");
  await tf.ready();
  transposeBeforeMultiplying();
}

/**
 * The backend's matrix product of plain operands runs on SIMD, that of transposed operands in a
 * scalar loop several times slower; and every gradient of a product has a transposed operand. So
 * operands are transposed by themselves, then multiplied plain: a training step of the pilot's
 * network on 128 images takes 3 ms in place of 12.
 */
function transposeBeforeMultiplying(): void {
  const product = kernel("BatchMatMul");
  const transpose = kernel("Transpose");
  const plain = (args: Run, x: tf.TensorInfo, transposed: boolean): tf.TensorInfo => {
    if (!transposed) return x;
    const perm = x.shape.map((_, axis) => axis);
    perm.push(...perm.splice(-2).reverse());
    return single(transpose({ inputs: { x }, backend: args.backend, attrs: { perm } }));
  };
  tf.unregisterKernel("BatchMatMul", "wasm");
  tf.registerKernel({
    kernelName: "BatchMatMul",
    backendName: "wasm",
    kernelFunc: (args) => {
      const { a, b } = args.inputs as { a: tf.TensorInfo; b: tf.TensorInfo };
      const left = plain(args, a, args.attrs?.transposeA === true);
      const right = plain(args, b, args.attrs?.transposeB === true);
      const result = product({
        inputs: { a: left, b: right },
        backend: args.backend,
        attrs: { transposeA: false, transposeB: false },
      });
      const backend = args.backend as tf.KernelBackend;
      if (left !== a) backend.disposeData(left.dataId);
      if (right !== b) backend.disposeData(right.dataId);
      return result;
    },
  });
}

type Run = Parameters<tf.KernelFunc>[0];

function kernel(name: string): tf.KernelFunc {
  const config = tf.getKernel(name, "wasm");
  if (config === undefined) throw new Error(`the wasm backend lacks the kernel ${name}`);
  return config.kernelFunc;
}

function single(info: tf.TensorInfo | tf.TensorInfo[]): tf.TensorInfo {
  const [first] = [info].flat();
  if (first === undefined) throw new Error("a kernel returned no tensor");
  return first;
}
