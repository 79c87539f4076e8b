/** Waits until the condition holds, looking again after each turn of I/O; fails after `boundMs`. */
export async function until(what: string, holds: () => boolean, boundMs = 20_000): Promise<void> {
  const startMs = performance.now();
  while (!holds()) {
    if (performance.now() - startMs > boundMs) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
