import type { BundleArch } from "@tributary/proto/identity/bundle.js";

/** Numbers of the ELF header (elf(5)): e_ident[EI_CLASS], and e_machine at byte 18. */
const machines: Readonly<Record<BundleArch, { readonly class: number; readonly machine: number }>> =
  {
    x64: { class: 2, machine: 62 },
    arm64: { class: 2, machine: 183 },
    armv7: { class: 1, machine: 40 },
  };

/** Of ARM: e_flags at byte 36 say which floats calls pass in registers. */
const ARM_HARD_FLOAT = 0x400;

/** For which of our machines an ELF file is, by its header; undefined for anything else. */
export function archOfElf(bytes: Uint8Array): BundleArch | undefined {
  if (bytes.length < 52 || Buffer.from(bytes.subarray(0, 4)).toString("latin1") !== "\x7fELF")
    return undefined;
  const isLittleEndian = bytes[5] === 1;
  if (!isLittleEndian) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const machine = view.getUint16(18, true);
  const found = (Object.keys(machines) as BundleArch[]).find(
    (arch) => machines[arch].machine === machine && machines[arch].class === bytes[4],
  );
  if (found !== "armv7") return found;
  return (view.getUint32(36, true) & ARM_HARD_FLOAT) !== 0 ? found : undefined;
}
