import {
  deviceFilters,
  parseTopic,
  petitionFilters,
  upTopic,
} from "@tributary/proto/wire/topics.js";

/** Where a device may send and what it may read, all else refused: its own `up`, its own `down`, `all`. */
export type TopicAccess = {
  /** Also a kind that the protocol does not have: that is answered, not cut. */
  mayPublish(device: string, topic: string): boolean;
  maySubscribe(device: string, filter: string): boolean;
  /** Whether a message on `topic` may be handed to the device, whatever it is subscribed to. */
  mayReceive(device: string, topic: string): boolean;
};

export function createTopicAccess(site: string): TopicAccess {
  function mayReceive(device: string, topic: string): boolean {
    const parsed = parseTopic(topic);
    if (parsed?.site !== site) return false;
    return parsed.way === "all" || (parsed.way === "down" && parsed.device === device);
  }
  return {
    mayPublish(device, topic) {
      const own = upTopic(site, device, "hello").slice(0, -"hello".length);
      return topic.startsWith(own) && topic.indexOf("/", own.length) < 0;
    },
    maySubscribe: (device, filter) =>
      deviceFilters(site, device).includes(filter) || mayReceive(device, filter),
    mayReceive,
  };
}

/** Of a connection that asks for a certificate, and for nothing else: its one request, and the answer. */
export function createPetitionAccess(site: string, asks: "enrol" | "renew"): TopicAccess {
  const isAnswer = (device: string, topic: string) => petitionFilters(site, device).includes(topic);
  return {
    mayPublish: (device, topic) => topic === upTopic(site, device, asks),
    maySubscribe: isAnswer,
    mayReceive: isAnswer,
  };
}
