import type { MemoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import type { Actor, Running, Stage } from "./actor.js";
import type { Operator } from "./operator.js";
import { changeKinds, drawer, type FaultKind, faultKinds, type Settings } from "./settings.js";
import type { Cast } from "./world.js";

export type Faults = {
  /** They have stopped, and what they left behind is put right. */
  readonly over: boolean;
  readonly count: number;
};

const DAY_MS = 24 * 60 * 60_000;

/** Lets things go wrong at the rates that the seed picked, then puts everything right. */
export function scheduleFaults(
  stage: Stage,
  settings: Settings,
  cast: Cast,
  operator: Operator,
): Faults {
  const { agenda, network, trace, seed } = stage;
  const draw = drawer(seededRandom(`${seed} faults`));
  const { faultsMs, everyMs } = settings;
  let over = false;
  let count = 0;
  const say = (what: string) => trace.note(agenda.nowMs, "fault", what);

  const parts = [cast.cloud, ...cast.gateways, ...cast.devices];
  const anyActor = () => {
    // The cloud and the gateways are hit more often than their share.
    const tier = draw.of([[cast.cloud], cast.gateways, cast.devices, cast.gateways] as const);
    return draw.of(tier as typeof parts).actor;
  };
  const pairs = () => [
    ...cast.gateways.map(({ settings: { name, above } }) => [name, above] as const),
    ...cast.devices.map(({ name, home }) => [name, home.name] as const),
  ];
  const downMs = () => draw.scaled(200, 30_000);
  const disks: readonly {
    readonly who: string;
    set(how: Parameters<MemoryDisk["fail"]>[0]): void;
  }[] = [
    { who: "cloud", set: (how) => cast.cloud.program.disk.fail(how) },
    ...cast.gateways.map(({ settings: { name }, program }) => ({
      who: name,
      set(how: Parameters<MemoryDisk["fail"]>[0]) {
        program.rack.now.disk.fail(how);
        program.rack.now.index.fail(how === "none" ? "none" : "full");
      },
    })),
    ...cast.devices.map(({ name, program }) => ({
      who: name,
      set: (how: Parameters<MemoryDisk["fail"]>[0]) => program.disk?.fail(how),
    })),
  ];
  const disk = (how: "full" | "read-only" | "sync") => {
    const hit = draw.of(disks);
    say(`the disk of ${hit.who} fails: ${how}`);
    hit.set(how);
    agenda.after(draw.scaled(500, 20_000), () => hit.set("none"));
  };
  const clog = (edges: readonly (readonly [string, string])[]) => {
    for (const [from, to] of edges) network.clog(from, to);
    agenda.after(draw.scaled(500, 40_000), () => {
      for (const [from, to] of edges) network.open(from, to);
    });
  };

  const rotting: readonly {
    readonly actor: Pick<Actor<Running>, "name" | "kill">;
    disk(): MemoryDisk | undefined;
  }[] = [
    ...cast.gateways.map(({ actor, program }) => ({ actor, disk: () => program.rack.now.disk })),
    ...cast.devices.map(({ actor, program }) => ({ actor, disk: () => program.disk })),
  ];

  /** Devices that are about to be moved, with what does it. */
  const leaving = new Map<string, () => void>();
  const strike: Record<FaultKind, () => void> = {
    "power-cut": () => anyActor().kill(true, downMs()),
    kill: () => anyActor().kill(false, downMs()),
    stop: () => anyActor().stop(downMs()),
    cut() {
      const [a, b] = draw.of(pairs());
      say(`the connections of ${a} and ${b} break`);
      network.cut(a, b);
    },
    "one-way"() {
      const [a, b] = draw.of(pairs());
      const edge = draw.chance(0.5) ? ([a, b] as const) : ([b, a] as const);
      say(`nothing passes from ${edge[0]} to ${edge[1]}`);
      clog([edge]);
    },
    partition() {
      const [a, b] = draw.of(pairs());
      say(`nothing passes between ${a} and ${b}`);
      clog([
        [a, b],
        [b, a],
      ]);
    },
    "disk-full": () => disk("full"),
    "disk-read-only": () => disk("read-only"),
    "disk-sync": () => disk("sync"),
    "wall-step"() {
      const { machine, name } = anyActor();
      const stepMs = draw.of([-1, 1]) * draw.of([500, 60_000, DAY_MS, 365 * DAY_MS]);
      say(`the clock of ${name} steps by ${stepMs} ms`);
      machine.wallOffsetMs += stepMs;
    },
    "store-away"() {
      if (cast.cloud.program.away) return;
      say("the cloud's store is away");
      cast.cloud.program.away = true;
      agenda.after(draw.scaled(200, 20_000), () => {
        cast.cloud.program.away = false;
      });
    },
    "session-stop": () => operator.stopSession(draw.scaled(500, 20_000)),
    flip() {
      const { actor, disk: diskNow } = draw.of(rotting);
      const disk = diskNow();
      if (disk === undefined) return;
      // At rest, while nobody has read it in: the machine is down when it happens.
      const downForMs = downMs();
      actor.kill(true, downForMs);
      const bit = Math.floor(draw.between(0, 1e6));
      void rot(disk, draw.between(0, 1), bit).then((path) => {
        if (path !== undefined) say(`bit ${bit} of ${actor.name}'s ${path} flips`);
      });
    },
    roam() {
      const device = draw.of(cast.devices);
      const others = cast.gateways.filter(({ settings: { name } }) => name !== device.home.name);
      if (others.length === 0 || leaving.has(device.name)) return;
      const { settings: to } = draw.of(others);
      const leaves = () => {
        if (!leaving.delete(device.name)) return;
        const stay = cast.devices.filter(({ home }) => home.name === device.home.name).length - 1;
        // A site that is left by too many would be waited for in vain.
        if (stay < settings.session.siteQuorum) return;
        say(`${device.name} moves from ${device.home.name} to ${to.name}`);
        device.home = to;
        device.actor.kill(draw.chance(0.5), downMs());
      };
      leaving.set(device.name, leaves);
      // Mostly with an update for the old gateway that is not receipted yet.
      if (draw.chance(0.2)) leaves();
    },
    replace() {
      const { actor, program } = draw.of(cast.gateways);
      say(`new hardware in place of ${actor.name}`);
      actor.kill(true, downMs());
      program.rack.replace();
    },
  };

  // Between two steps of a program is where it is easily wrong: so near its events it goes down.
  for (const { actor } of parts)
    actor.watch((event) => {
      if (over) return;
      const leaves = event === "trained" || event === "begun" ? leaving.get(actor.name) : undefined;
      if (leaves !== undefined) agenda.after(draw.between(0, 2 * settings.pace.mostMs), leaves);
      if (!draw.chance(settings.hitRate)) return;
      count++;
      const power = draw.chance(0.6);
      const downForMs = downMs();
      agenda.after(draw.between(0, settings.hitWithinMs), () => actor.kill(power, downForMs));
    });

  for (const kind of [...faultKinds, ...changeKinds]) {
    const meanMs = everyMs[kind];
    if (meanMs === undefined) continue;
    const next = () => {
      // Exponential, as events that know nothing of one another come.
      agenda.after(-Math.log(1 - draw.between(0, 1)) * meanMs, () => {
        if (agenda.nowMs >= faultsMs) return;
        count++;
        strike[kind]();
        next();
      });
    };
    next();
  }
  agenda.at(faultsMs, () => {
    say("the faults stop");
    network.calm();
    for (const { set } of disks) set("none");
    cast.cloud.program.away = false;
    // A clock that stays wrong is no fault that goes on: the last step stays.
    over = true;
  });
  return {
    get over() {
      return over;
    },
    get count() {
      return count;
    },
  };
}

/** Flips a bit of one of the files that can be had again: models, and a device's update, which is trained anew. */
async function rot(disk: MemoryDisk, at: number, bit: number): Promise<string | undefined> {
  const cached = (await disk.list("models")).map((name) => `models/${name}`);
  const kept = (await disk.list(".")).filter((name) =>
    /^slot$|\.(safetensors|part|json)$/.test(name),
  );
  const files = [...cached, ...kept];
  const path = files[Math.floor(at * files.length)];
  if (path === undefined || (await disk.readFile(path)).length === 0) return undefined;
  disk.flip(path, bit);
  return path;
}
