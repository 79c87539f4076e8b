/** Longer than anything takes on a busy machine; a test that waits so long has failed. */
const BOUND_MS = 240_000;
const LOOK_AGAIN_MS = 5;

/** Waits until the condition holds, looking again and again; says what it waited for when it gives up. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  boundMs = BOUND_MS,
): Promise<void> {
  const endMs = performance.now() + boundMs;
  while (!(await holds())) {
    if (performance.now() > endMs) throw new Error(`waited ${boundMs} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
  }
}
