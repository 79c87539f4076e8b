// Writes a first model: y = 0 x + 0.
import { writeFileSync } from "node:fs";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";

const layout = [
  { name: "w", shape: [1] },
  { name: "b", shape: [1] },
];
writeFileSync("line.safetensors", encodeSafetensors(layout, Float32Array.of(0, 0)));
