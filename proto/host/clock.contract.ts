import assert from "node:assert/strict";
import { test } from "node:test";
import type { Clock } from "./clock.js";

/** What every clock does. `pass` lets at least so many milliseconds go by on the clock. */
export function clockContract(
  name: string,
  create: () => { readonly clock: Clock; readonly pass: (ms: number) => Promise<void> },
): void {
  test(`${name}: time that passes shows on both readings`, async () => {
    const { clock, pass } = create();
    const [wallMs, monotonicMs] = [clock.nowMs(), clock.monotonicMs()];
    await pass(20);
    assert.ok(clock.monotonicMs() - monotonicMs >= 20);
    assert.ok(clock.nowMs() > wallMs);
  });

  test(`${name}: a timer fires once, after its delay, never inside setTimer`, async () => {
    const { clock, pass } = create();
    const startMs = clock.monotonicMs();
    const firedMs: number[] = [];
    clock.setTimer(15, () => firedMs.push(clock.monotonicMs() - startMs));
    clock.setTimer(-5, () => firedMs.push(-1));
    assert.deepEqual(firedMs, []);
    await pass(60);
    assert.equal(firedMs.length, 2);
    assert.equal(firedMs[0], -1);
    assert.ok((firedMs[1] ?? 0) >= 15);
  });

  test(`${name}: a cancelled timer does not fire, and cancelling again is harmless`, async () => {
    const { clock, pass } = create();
    let fired = 0;
    const timer = clock.setTimer(5, () => fired++);
    const done = clock.setTimer(5, () => fired++);
    timer.cancel();
    timer.cancel();
    await pass(40);
    done.cancel();
    assert.equal(fired, 1);
  });

  test(`${name}: a delay past 2^31 milliseconds does not fire at once`, async () => {
    const { clock, pass } = create();
    let fired = 0;
    const timer = clock.setTimer(2 ** 32, () => fired++);
    await pass(20);
    assert.equal(fired, 0);
    timer.cancel();
  });
}
