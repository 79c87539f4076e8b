import type {
  PartialState,
  SendPartialRequest,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Service } from "@tributary/proto/tier/service.js";
import { planted } from "./planted.js";

function receiptOf(digest: string, outcome: string, rule: string): PartialState {
  return { receivedBytes: 0n, receipt: { digest, outcome, rule }, refusal: undefined };
}

export const deletedBeforeReceipt = planted(
  "a gateway takes a broken call for a receipt: it deletes a Partial that nobody has",
  "account",
  30,
  () => ({
    upstream(upstream) {
      let digest = "";
      return {
        ...upstream,
        openPartial(request) {
          digest = request.digest;
          return upstream.openPartial(request);
        },
        sendPartial: (id, offset, chunks) =>
          upstream.sendPartial(id, offset, chunks).catch(() => receiptOf(digest, "merged", "")),
      };
    },
  }),
);

export const receiptedTooEarly = planted(
  "the cloud sends the receipt once the last byte is there, before the Partial is durable",
  "account",
  60,
  () => ({
    service(service: Service): Service {
      const digests = new Map<string, string>();
      return {
        ...service,
        openPartial(request) {
          const { gateway = "", sequence = 0n } = request.id ?? {};
          digests.set(`${gateway} ${sequence}`, request.digest);
          return service.openPartial(request);
        },
        async sendPartial(messages) {
          const all: SendPartialRequest[] = [];
          for await (const message of messages) all.push(message);
          const { gateway = "", sequence = 0n } = all[0]?.id ?? {};
          const digest = digests.get(`${gateway} ${sequence}`) ?? "";
          async function* replayed() {
            yield* all;
          }
          service.sendPartial(replayed()).catch(() => {});
          return { ok: true, state: receiptOf(digest, "merged", "") };
        },
      };
    },
  }),
);

export const latePartialDropped = planted(
  "the cloud receipts a Partial of a round that has passed, and drops it",
  "account",
  60,
  () => ({
    service(service: Service): Service {
      let newest = 0;
      return {
        ...service,
        async openPartial(request) {
          const number = Number(request.round.split(".")[1]);
          newest = Math.max(newest, number);
          if (number >= newest) return service.openPartial(request);
          return { ok: true, state: receiptOf(request.digest, "expired", "late") };
        },
      };
    },
  }),
);

export const sendThrows = planted(
  "a gateway's device link throws at every fifth welcome",
  "unhandled",
  10,
  () => {
    let welcomes = 0;
    return {
      broker: (broker) => async (options) => {
        const link = await broker(options);
        return {
          ...link,
          send(device, kind, bytes, sent) {
            if (kind === "welcome" && ++welcomes % 5 === 0) throw new Error("the socket is gone");
            link.send(device, kind, bytes, sent);
          },
        };
      },
    };
  },
);

export const unseededRandom = planted(
  "a link draws from the machine's own randomness: no seed brings the run back",
  "trace",
  5,
  () => ({
    upstream: (upstream) => ({
      ...upstream,
      sendPartial: (id, offset, chunks) =>
        Math.random() < 0.5
          ? upstream.sendPartial(id, offset, chunks)
          : Promise.reject(new Error("not now")),
    }),
  }),
);
