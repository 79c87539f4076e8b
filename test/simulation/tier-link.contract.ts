import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Upstream } from "@tributary/gateway/upstream.js";
import type {
  AttachRequest,
  AttachResponse,
  PartialState,
  SendPartialRequest,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { ControlStream } from "@tributary/proto/tier/attach.js";
import type { ModelParts, Service } from "@tributary/proto/tier/service.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { refuse } from "@tributary/proto/wire/verdict.js";

/** Both sides of a tier link, and the way between them. */
export type TierLinkStage = {
  /** Serves from now on. Called once at most. */
  serve(service: Service): Promise<void>;
  upstream(): Upstream;
  /** Breaks the connections that stand. */
  cut(): void;
  /** Nothing passes any more, and nobody is told. */
  freeze(): void;
  until(what: string, holds: () => boolean): Promise<void>;
  close(): Promise<void>;
};

const id = { gateway: "g1", incarnation: "i", sequence: 7n };
const digest = "0".repeat(64);
const opening = { id, round: "s.1", digest, totalBytes: 2n ** 40n };
const fetching = { model: "m.1", digest, offset: 3n };
const receipt = { digest, outcome: "kept", rule: "a rule" };
const state = (receivedBytes: bigint): PartialState => ({
  receivedBytes,
  receipt,
  refusal: undefined,
});

const unused = () => Promise.reject(new Error("unused"));
const nothing: Service = {
  attach() {},
  fetchModel: unused,
  openPartial: unused,
  sendPartial: unused,
  enrol: unused,
  answerChallenge: unused,
};

const ping = (sequence: number): AttachRequest => ({
  message: {
    $case: "planRefused",
    value: { round: `s.${sequence}`, code: "busy", message: "x".repeat(10) },
  },
});
const closed = (n: number): AttachResponse => ({
  message: { $case: "roundClosed", value: { round: `s.${n}`, outcome: "committed" } },
});
const hello: AttachRequest = {
  message: {
    $case: "hello",
    value: {
      protocolVersion: 1,
      gateway: "g1",
      site: "s",
      incarnation: "i",
      softwareVersion: "1",
      rounds: ["s.1", "s.2"],
      below: ["g2"],
      nowMs: 2n ** 41n,
    },
  },
};

async function* chunks(count: number, bytes: number, taken: () => void = () => {}) {
  for (let n = 0; n < count; n++) {
    taken();
    yield new Uint8Array(bytes).fill(n);
  }
}

/** What every tier link must do; `open` gives one with nobody on it. */
export function tierLinkContract(name: string, open: () => Promise<TierLinkStage>): void {
  const check = (what: string, run: (stage: TierLinkStage) => Promise<void>): void => {
    void it(what, async () => {
      const stage = await open();
      try {
        await run(stage);
      } finally {
        await stage.close();
      }
    });
  };
  /** Lets time pass until a call has ended. */
  async function ended<T>(stage: TierLinkStage, call: Promise<T>): Promise<T> {
    let over = false;
    const mark = () => {
      over = true;
    };
    call.then(mark, mark);
    await stage.until("the call ends", () => over);
    return call;
  }
  const isFailure =
    (...words: RegExp[]) =>
    (error: unknown) => {
      assert.ok(error instanceof TributaryError);
      assert.equal(error.code, "link-failed");
      assert.equal(error.retryable, true);
      for (const some of words) assert.match(error.message, some);
      return true;
    };
  const fails = (stage: TierLinkStage, call: Promise<unknown>, ...words: RegExp[]) =>
    assert.rejects(ended(stage, call), isFailure(...words));
  /** Waits until a figure stands while other calls go through, each of which takes its time. */
  async function stalled(stage: TierLinkStage, upstream: Upstream, figure: () => number) {
    for (let [same, last] = [0, Number.NaN]; same < 20; last = figure()) {
      await ended(stage, upstream.openPartial(opening));
      same = figure() === last ? same + 1 : 0;
    }
  }
  const readAll = async (upstream: Upstream) => {
    const parts: [bigint, number[]][] = [];
    for await (const { offset, data } of upstream.fetchModel(fetching))
      parts.push([offset, [...data]]);
    return parts;
  };

  describe(`${name}: a call`, () => {
    check("brings its request whole, and its answer back", async (stage) => {
      const requests: unknown[] = [];
      await stage.serve({
        ...nothing,
        async openPartial(request) {
          requests.push(request);
          return { ok: true, state: state(5n) };
        },
      });
      const upstream = stage.upstream();
      assert.deepEqual(await ended(stage, upstream.openPartial(opening)), state(5n));
      assert.deepEqual(requests, [opening]);
    });

    check("that is refused fails, retryable, and says why", async (stage) => {
      const no = async () => refuse("busy", "come again later");
      await stage.serve({ ...nothing, openPartial: no, sendPartial: no, fetchModel: no });
      const upstream = stage.upstream();
      const why = /busy: come again later/;
      await fails(stage, upstream.openPartial(opening), /^OpenPartial/, why);
      await fails(stage, upstream.sendPartial(id, 0, chunks(1, 5)), /^SendPartial/, why);
      await fails(stage, readAll(upstream), /^FetchModel/, why);
    });

    check("that fails up there fails, and tells no secrets", async (stage) => {
      const secret = () => Promise.reject(new Error("the password is wrong"));
      await stage.serve({
        ...nothing,
        openPartial: secret,
        sendPartial: secret,
        fetchModel: secret,
      });
      const upstream = stage.upstream();
      const calls = [
        () => upstream.openPartial(opening),
        () => upstream.sendPartial(id, 0, chunks(1, 5)),
        () => readAll(upstream),
      ];
      for (const call of calls)
        await fails(stage, call(), /this side failed/, /^((?!password).)*$/);
    });

    check("to nobody fails", async (stage) => {
      const upstream = stage.upstream();
      await fails(stage, upstream.openPartial(opening));
      await fails(stage, upstream.sendPartial(id, 0, chunks(1, 5)));
      await fails(stage, readAll(upstream));
    });

    check("fails when its connection breaks, and the next one is served", async (stage) => {
      let asked = 0;
      await stage.serve({
        ...nothing,
        openPartial: () =>
          ++asked === 1 ? new Promise(() => {}) : Promise.resolve({ ok: true, state: state(1n) }),
      });
      const upstream = stage.upstream();
      const first = upstream.openPartial(opening);
      first.catch(() => {});
      await stage.until("it is asked", () => asked === 1);
      stage.cut();
      await fails(stage, first);
      let answer: PartialState | undefined;
      const again = () => {
        upstream.openPartial(opening).then(
          (state) => {
            answer = state;
          },
          () => again(),
        );
      };
      again();
      await stage.until("the next is answered", () => answer !== undefined);
      assert.deepEqual(answer, state(1n));
    });
  });

  describe(`${name}: a Partial's bytes`, () => {
    check("arrive whole and in order from their offset, under one identity", async (stage) => {
      const got: SendPartialRequest[] = [];
      await stage.serve({
        ...nothing,
        async sendPartial(messages) {
          for await (const message of messages) got.push(message);
          return { ok: true, state: state(9n) };
        },
      });
      const upstream = stage.upstream();
      const answer = await ended(stage, upstream.sendPartial(id, 100, chunks(20, 1_000)));
      assert.deepEqual(answer, state(9n));
      assert.deepEqual(got.map((message) => message.id).filter(Boolean), [id]);
      assert.deepEqual(got[0]?.id, id);
      let at = 100;
      for (const { offset, data } of got) {
        assert.equal(Number(offset), at);
        at += data.length;
      }
      const sent: Uint8Array[] = [];
      for await (const chunk of chunks(20, 1_000)) sent.push(chunk);
      assert.ok(Buffer.concat(sent).equals(Buffer.concat(got.map(({ data }) => data))));
    });

    check("are read no faster than they are taken up there", async (stage) => {
      let goOn = () => {};
      const held = new Promise<void>((resolve) => {
        goOn = resolve;
      });
      let [read, bytes, first] = [0, 0, false];
      await stage.serve({
        ...nothing,
        async openPartial() {
          return { ok: true, state: state(0n) };
        },
        async sendPartial(messages) {
          for await (const { data } of messages) {
            first = true;
            await held;
            bytes += data.length;
          }
          return { ok: true, state: state(1n) };
        },
      });
      const upstream = stage.upstream();
      const count = 400;
      const sending = upstream.sendPartial(
        id,
        0,
        chunks(count, 64 * 1024, () => read++),
      );
      await stage.until("the first is there", () => first);
      await stalled(stage, upstream, () => read);
      assert.ok(read < count, `${read} of ${count} are read`);
      goOn();
      await ended(stage, sending);
      assert.equal(bytes, count * 64 * 1024);
    });

    check("are given up when the answer comes before their end", async (stage) => {
      await stage.serve({
        ...nothing,
        async sendPartial(messages) {
          for await (const _ of messages) break;
          return { ok: true, state: state(2n) };
        },
      });
      const upstream = stage.upstream();
      let read = 0;
      const sending = upstream.sendPartial(
        id,
        0,
        chunks(10_000, 64 * 1024, () => read++),
      );
      assert.deepEqual(await ended(stage, sending), state(2n));
      assert.ok(read < 10_000, `${read} are read`);
    });

    check("in a message past its bound are refused", async (stage) => {
      let whole = 0;
      await stage.serve({
        ...nothing,
        async sendPartial(messages) {
          for await (const _ of messages);
          whole++;
          return { ok: true, state: state(0n) };
        },
      });
      const upstream = stage.upstream();
      const large = 5 * wire.grpcMessageBytes;
      await fails(stage, upstream.sendPartial(id, 0, chunks(1, large)));
      assert.equal(whole, 0);
      await ended(stage, upstream.sendPartial(id, 0, chunks(1, wire.tierChunkBytes)));
      assert.equal(whole, 1);
    });

    for (const [what, fail] of [
      ["whose source fails", undefined],
      ["on a connection that breaks", (stage: TierLinkStage) => stage.cut()],
    ] as const)
      check(`${what} just end up there`, async (stage) => {
        let [first, over] = [false, false];
        await stage.serve({
          ...nothing,
          async sendPartial(messages) {
            for await (const _ of messages) first = true;
            over = true;
            return { ok: true, state: state(0n) };
          },
        });
        async function* spoilt() {
          yield new Uint8Array(10);
          await stage.until("the first is there", () => first);
          if (fail === undefined) throw new Error("the disk is gone");
          fail(stage);
          await stage.until("the other side knows", () => over);
        }
        const sending = stage.upstream().sendPartial(id, 0, spoilt());
        await assert.rejects(
          ended(stage, sending),
          fail === undefined ? /the disk is gone/ : isFailure(/^SendPartial/),
        );
        await stage.until("the other side knows", () => over);
      });
  });

  describe(`${name}: a model`, () => {
    const partsOf = async function* (
      count: number,
      left: () => void,
      read: () => void,
    ): ModelParts {
      try {
        for (let n = 0; n < count; n++) {
          read();
          yield { offset: BigInt(n * 1_000), data: Buffer.alloc(1_000, n) };
        }
      } finally {
        left();
      }
    };

    check("arrives whole and in order", async (stage) => {
      const requests: unknown[] = [];
      await stage.serve({
        ...nothing,
        async fetchModel(request) {
          requests.push(request);
          return {
            ok: true,
            parts: partsOf(
              20,
              () => {},
              () => {},
            ),
          };
        },
      });
      const parts = await ended(stage, readAll(stage.upstream()));
      assert.deepEqual(requests, [fetching]);
      let at = 0;
      for (const [offset, data] of parts) {
        assert.equal(Number(offset), at);
        for (const byte of data) assert.equal(byte, Math.floor(at++ / 1_000));
      }
      assert.equal(at, 20_000);
    });

    check(
      "is read up there no faster than here, and let go when the reader leaves",
      async (stage) => {
        let [read, left] = [0, false];
        const count = 50_000;
        const parts = () =>
          partsOf(
            count,
            () => {
              left = true;
            },
            () => read++,
          );
        await stage.serve({
          ...nothing,
          fetchModel: async () => ({ ok: true, parts: parts() }),
          openPartial: async () => ({ ok: true, state: state(0n) }),
        });
        const upstream = stage.upstream();
        const reader = upstream.fetchModel(fetching)[Symbol.asyncIterator]();
        await ended(stage, reader.next());
        await stalled(stage, upstream, () => read);
        assert.ok(read < count, `${read} of ${count} are read`);
        assert.equal(left, false);
        await ended(stage, Promise.resolve(reader.return?.()));
        await stage.until("it is let go", () => left);
        assert.ok(read < count, `${read} of ${count} are read`);
      },
    );

    check("that breaks off up there fails here", async (stage) => {
      async function* spoilt(): ModelParts {
        yield { offset: 0n, data: Buffer.alloc(10) };
        throw new Error("the disk is gone");
      }
      await stage.serve({ ...nothing, fetchModel: async () => ({ ok: true, parts: spoilt() }) });
      await fails(stage, readAll(stage.upstream()), /^FetchModel/);
    });
  });

  describe(`${name}: a control stream`, () => {
    async function attached(stage: TierLinkStage) {
      const heard: AttachRequest[] = [];
      const ends: string[] = [];
      let control: ControlStream | undefined;
      await stage.serve({
        ...nothing,
        attach(stream) {
          control = stream;
          stream.on("data", (message) => heard.push(message));
          for (const event of ["end", "cancelled", "close"] as const)
            stream.on(event, () => ends.push(event));
          stream.on("error", () => ends.push("error"));
        },
      });
      const upstream = stage.upstream();
      const call = upstream.attach();
      const got: AttachResponse[] = [];
      const over: (string | Error)[] = [];
      call.on("data", (message) => got.push(message));
      call.on("end", () => over.push("end"));
      call.on("error", (error) => over.push(error));
      call.write(hello);
      await stage.until("it is there", () => heard.length === 1);
      assert.ok(control);
      return { call, control, heard, ends, got, over };
    }

    check("carries messages whole and in order, both ways", async (stage) => {
      const { call, control, heard, got } = await attached(stage);
      assert.deepEqual(heard, [hello]);
      for (let n = 1; n <= 10; n++) {
        call.write(ping(n));
        control.write(closed(n));
      }
      await stage.until("all is there", () => heard.length === 11 && got.length === 10);
      const numbers = Array.from({ length: 10 }, (_, i) => i + 1);
      assert.deepEqual(heard.slice(1), numbers.map(ping));
      assert.deepEqual(got, numbers.map(closed));
    });

    check("says when it is full, and when it has room again", async (stage) => {
      const { call, control, heard, got } = await attached(stage);
      let drained = 0;
      call.on("drain", () => drained++);
      control.on("drain", () => drained++);
      const free = [ping(1), ping(2)].map((message) => call.write(message));
      assert.deepEqual(free, [true, true]);
      let full = 0;
      for (let n = 0; n < 500; n++) if (!call.write(ping(n))) full++;
      for (let n = 0; n < 500; n++) if (!control.write(closed(n))) full++;
      assert.ok(full > 0);
      await stage.until("both have room", () => drained === 2);
      await stage.until("all is there", () => heard.length === 503 && got.length === 500);
    });

    check("that is refused says so with the code", async (stage) => {
      const { control, over } = await attached(stage);
      control.fail(refuse("gateway-loop", "g1 is above itself: a < b"));
      await stage.until("it is over", () => over.length > 0);
      const [error] = over;
      assert.ok(error instanceof TributaryError);
      assert.deepEqual([error.code, error.message], ["gateway-loop", "g1 is above itself: a < b"]);
    });

    check("that is ended up there ends here, behind what was sent", async (stage) => {
      const { control, got, over } = await attached(stage);
      control.write(closed(1));
      control.end();
      await stage.until("it is over", () => over.length > 0);
      assert.deepEqual(got, [closed(1)]);
      assert.equal(over[0], "end");
    });

    check("that is cancelled here is over up there", async (stage) => {
      const { call, ends } = await attached(stage);
      call.cancel();
      await stage.until("the other side knows", () => ends.includes("close"));
      assert.ok(ends.includes("cancelled"));
    });

    check("that breaks is told to both", async (stage) => {
      const { over, ends } = await attached(stage);
      stage.cut();
      await stage.until("this side knows", () => over.length > 0);
      await stage.until("the other side knows", () => ends.includes("close"));
      assert.ok(over[0] instanceof Error);
    });

    check("that falls silent is given up by both", async (stage) => {
      const { over, ends } = await attached(stage);
      stage.freeze();
      await stage.until("this side gives up", () => over.length > 0);
      await stage.until("the other side gives up", () => ends.includes("close"));
      assert.ok(over[0] instanceof Error);
    });

    check("to nobody fails", async (stage) => {
      const call = stage.upstream().attach();
      const errors: Error[] = [];
      call.on("error", (error) => errors.push(error));
      call.on("data", () => {});
      call.write(hello);
      await stage.until("it fails", () => errors.length > 0);
    });

    check("with a message past its bound fails", async (stage) => {
      const { call, over, heard } = await attached(stage);
      const value = { round: "s.1", code: "busy", message: "x".repeat(2 * wire.grpcMessageBytes) };
      call.write({ message: { $case: "planRefused", value } });
      await stage.until("it is over", () => over.length > 0);
      assert.ok(over[0] instanceof Error);
      assert.equal(heard.length, 1);
    });
  });
}
