import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { configSchema } from "./config.js";
import type { GatewayEvent } from "./events.js";
import type { UplinkWindow } from "./window-settings.js";
import { createWindows, whileOpen, windowTimeMs } from "./windows.js";

const HOUR_MS = 3_600_000;

function bench(start: string, windows: UplinkWindow[], timezone = "UTC") {
  const clock = createManualClock(Date.parse(start));
  const events: GatewayEvent[] = [];
  const changes: [string, boolean][] = [];
  const trust = { on: true };
  const made = createWindows({
    windows,
    timezone,
    clock,
    trustedMs: () => (trust.on ? clock.nowMs() : undefined),
    onChange: (open) => changes.push([new Date(clock.nowMs()).toISOString().slice(0, 16), open]),
    events: (event) => events.push(event),
  });
  made.start();
  return { clock, events, changes, trust, windows: made };
}

const nightly = { cron: "30 2 * * *", durationMs: HOUR_MS };

describe("uplink windows", () => {
  it("that are not set leave the uplink open, and set no timer", () => {
    const { clock, windows, changes } = bench("2026-03-10T00:00:00Z", []);
    assert.equal(windows.open, true);
    assert.equal(clock.nextTimerMs(), undefined);
    clock.advance(48 * HOUR_MS);
    assert.deepEqual(changes, []);
  });

  it("open and shut at their minute", () => {
    const { clock, changes, windows } = bench("2026-03-10T00:00:20Z", [nightly]);
    assert.equal(windows.open, false);
    clock.advance(48 * HOUR_MS);
    assert.deepEqual(changes, [
      ["2026-03-10T00:00", false],
      ["2026-03-10T02:30", true],
      ["2026-03-10T03:30", false],
      ["2026-03-11T02:30", true],
      ["2026-03-11T03:30", false],
    ]);
    windows.close();
    assert.equal(clock.nextTimerMs(), undefined);
  });

  it("are known when a gateway starts in the middle of one, however long it is", () => {
    assert.equal(bench("2026-03-10T03:29:59Z", [nightly]).windows.open, true);
    assert.equal(bench("2026-03-10T03:30:00Z", [nightly]).windows.open, false);
    const weekend = { cron: "0 18 * * 5", durationMs: 60 * HOUR_MS };
    assert.equal(bench("2026-03-15T23:00:00Z", [weekend]).windows.open, true); // a Sunday
    assert.equal(bench("2026-03-16T06:00:00Z", [weekend]).windows.open, false);
  });

  it("say how long it is until the next", () => {
    const now = new Date();
    const soon = new Date(now.getTime() + 30 * 60_000);
    const cron = `${soon.getUTCMinutes()} ${soon.getUTCHours()} * * *`;
    const { windows } = bench(now.toISOString(), [{ cron, durationMs: 60_000 }]);
    const ms = windows.nextMs();
    assert.ok(ms !== null && ms > 0 && ms <= 30 * 60_000, `${ms} ms`);
    assert.equal(bench("2026-03-10T03:00:00Z", [nightly]).windows.nextMs(), 0);
    assert.equal(bench("2026-03-10T03:00:00Z", []).windows.nextMs(), null);
  });

  it("that overlap are one", () => {
    const later = { cron: "0 3 * * *", durationMs: HOUR_MS };
    const { clock, changes } = bench("2026-03-10T02:00:00Z", [nightly, later]);
    clock.advance(6 * HOUR_MS);
    assert.deepEqual(changes, [
      ["2026-03-10T02:00", false],
      ["2026-03-10T02:30", true],
      ["2026-03-10T04:00", false],
    ]);
  });

  it("go by the clock of their time zone: not in the hour that spring leaves out, twice in the one that autumn repeats", () => {
    const spring = bench("2026-03-28T12:00:00Z", [nightly], "Europe/Berlin");
    spring.clock.advance(48 * HOUR_MS);
    assert.deepEqual(spring.changes, [
      ["2026-03-28T12:00", false],
      // 29 March has no 02:30; on the 30th that is 00:30 UTC.
      ["2026-03-30T00:30", true],
      ["2026-03-30T01:30", false],
    ]);
    const autumn = bench("2026-10-24T12:00:00Z", [nightly], "Europe/Berlin");
    autumn.clock.advance(24 * HOUR_MS);
    assert.deepEqual(autumn.changes, [
      ["2026-10-24T12:00", false],
      // 02:30 is 00:30 UTC and, an hour later, 01:30 UTC again.
      ["2026-10-25T00:30", true],
      ["2026-10-25T02:30", false],
    ]);
  });

  it("that last over a change of the clock last as long as they say", () => {
    // Five hours from 23:00 on: 22:00 UTC in winter, and until 03:00 UTC, which is 05:00 in summer.
    const late = { cron: "0 23 * * *", durationMs: 5 * HOUR_MS };
    const spring = bench("2026-03-28T20:00:00Z", [late], "Europe/Berlin");
    spring.clock.advance(12 * HOUR_MS);
    assert.deepEqual(spring.changes.slice(1), [
      ["2026-03-28T22:00", true],
      ["2026-03-29T03:00", false],
    ]);
    const autumn = bench("2026-10-24T20:00:00Z", [late], "Europe/Berlin");
    autumn.clock.advance(12 * HOUR_MS);
    assert.deepEqual(autumn.changes.slice(1), [
      ["2026-10-24T21:00", true],
      ["2026-10-25T02:00", false],
    ]);
  });

  it("go by a time zone off the full hour", () => {
    const { clock, changes } = bench("2026-03-10T20:00:00Z", [nightly], "Asia/Kathmandu");
    clock.advance(4 * HOUR_MS);
    assert.deepEqual(changes.slice(1), [
      ["2026-03-10T20:45", true],
      ["2026-03-10T21:45", false],
    ]);
  });

  it("follow a step of the clock within a minute, either way", () => {
    const { clock, windows } = bench("2026-03-10T12:00:00Z", [nightly]);
    assert.equal(windows.open, false);
    clock.shiftWall(15 * HOUR_MS);
    clock.advance(60_000);
    assert.equal(windows.open, true);
    clock.shiftWall(-HOUR_MS);
    clock.advance(60_000);
    assert.equal(windows.open, false);
    clock.shiftWall(HOUR_MS);
    clock.advance(60_000);
    assert.equal(windows.open, true);
  });

  it("do not apply while no time can be trusted", () => {
    const { clock, trust, windows, events } = bench("2026-03-10T12:00:00Z", [nightly]);
    assert.equal(windows.open, false);
    trust.on = false;
    clock.advance(60_000);
    assert.equal(windows.open, true);
    assert.deepEqual(events.at(-1), {
      level: "info",
      name: "uplink-window",
      open: true,
      trusted: false,
    });
    trust.on = true;
    clock.advance(60_000);
    assert.equal(windows.open, false);
  });
});

describe("the time that windows go by", () => {
  it("is the upstream's where it was heard, else a wall clock that can be right", () => {
    const clock = { nowMs: () => 5_000_000 };
    const time = (floor: number, upstream?: number) => ({
      floorMs: () => floor,
      upstreamMs: () => upstream,
    });
    assert.equal(windowTimeMs(time(4_000_000), clock), 5_000_000);
    assert.equal(windowTimeMs(time(5_010_000), clock), 5_000_000);
    assert.equal(windowTimeMs(time(6_000_000), clock), undefined);
    assert.equal(windowTimeMs(time(6_000_000, 7_000_000), clock), 7_000_000);
  });
});

describe("a download", () => {
  it("breaks off, to be tried again, when the window ends", async () => {
    const state = { open: true };
    async function* pieces() {
      yield 1;
      yield 2;
    }
    const got: number[] = [];
    await assert.rejects(
      async () => {
        for await (const piece of whileOpen(pieces(), () => state.open)) {
          got.push(piece);
          state.open = false;
        }
      },
      { code: "link-failed", retryable: true },
    );
    assert.deepEqual(got, [1]);
  });
});

describe("the config of windows", () => {
  const least = { site: "plant", gateway: "gw-1", dataDir: "data", upstream: "127.0.0.1:7000" };
  const problem = (uplink: object) => {
    const parsed = configSchema.safeParse({ ...least, uplink });
    const [issue] = parsed.success ? [] : parsed.error.issues;
    return issue && `${issue.path.join(".")}: ${issue.message}`;
  };
  const window = (cron: string, durationMs = HOUR_MS) => ({ windows: [{ cron, durationMs }] });

  it("takes what cron can say of minutes", () => {
    for (const cron of ["0 2 * * *", "*/30 22-2 * * mon-fri", "0 0 L * *", "15 3 1,15 * *"]) {
      assert.equal(problem(window(cron, 60_000)), undefined, cron);
    }
    assert.equal(problem({ ...window("0 2 * * *"), timezone: "Europe/Lisbon" }), undefined);
    assert.equal(problem(window("0 20 * * sun", 30 * HOUR_MS)), undefined);
  });

  it("says what is wrong, and where", () => {
    assert.match(problem(window("61 2 * * *")) ?? "", /^uplink.windows.0.cron: 61 /);
    assert.match(problem(window("at night")) ?? "", /^uplink.windows.0.cron: expected 5/);
    assert.match(problem(window("0 0 2 * * *")) ?? "", /five fields/);
    assert.match(problem(window("0 2 L-30 2 *")) ?? "", /never begins/);
    assert.match(problem(window("0 2 * * *", 500)) ?? "", /durationMs/);
    assert.match(problem({ ...window("0 2 * * *"), timezone: "Mars/Base" }) ?? "", /time zone/);
    const many = Array.from({ length: 17 }, () => window("0 2 * * *").windows[0]);
    assert.match(problem({ windows: many }) ?? "", /uplink.windows/);
    assert.match(problem({ bytesPerSecond: 10 }) ?? "", /bytesPerSecond/);
  });

  it("refuses a window as long as the time between two of its beginnings", () => {
    const MINUTE_MS = 60_000;
    const DAY_MS = 24 * HOUR_MS;
    const always = /^uplink.windows.0.durationMs: .*always open: leave windows out/;
    for (const [cron, durationMs] of [
      ["* * * * *", MINUTE_MS],
      ["*/10 * * * *", 10 * MINUTE_MS],
      ["0 * * * *", HOUR_MS],
      ["0 2 * * *", DAY_MS],
      ["0 1,13 * * *", DAY_MS / 2],
      ["0 0 * * 7", 7 * DAY_MS],
      ["30 6 * * mon", 7 * DAY_MS],
      ["0 0 * * 1,4", 4 * DAY_MS],
      ["0 0 1-31/2 * *", 2 * DAY_MS],
    ] as const) {
      // The same in a zone whose days are not all as long.
      for (const timezone of ["UTC", "Europe/Berlin"]) {
        assert.match(problem({ ...window(cron, durationMs), timezone }) ?? "", always, cron);
      }
      const least = durationMs - MINUTE_MS;
      if (least > 0) assert.equal(problem(window(cron, least)), undefined, cron);
    }
    assert.equal(problem(window("0 8,9 * * *", 2 * HOUR_MS)), undefined);
    assert.equal(problem(window("0 8 * * mon", DAY_MS)), undefined);
    // Shut in February alone.
    assert.equal(problem(window("0 0 * 1,3-12 *", DAY_MS)), undefined);
    assert.match(problem(window("0 0 */2 * *", 2 * DAY_MS)) ?? "", always);
  });

  it("refuses windows that are always open together, and takes others that overlap", () => {
    const halves = [
      { cron: "0 0 * * *", durationMs: 12 * HOUR_MS },
      { cron: "0 12 * * *", durationMs: 12 * HOUR_MS },
    ];
    assert.match(problem({ windows: halves }) ?? "", /^uplink.windows: .*always open/);
    const [first] = halves as [UplinkWindow];
    const short = { cron: "0 11 * * *", durationMs: 12 * HOUR_MS };
    assert.equal(problem({ windows: [first, short] }), undefined);
    const week = [
      { cron: "0 0 * * mon-fri", durationMs: 24 * HOUR_MS },
      { cron: "0 22 * * fri", durationMs: 50 * HOUR_MS },
    ];
    assert.match(problem({ windows: week }) ?? "", /always open/);
  });
});
