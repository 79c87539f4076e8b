import type { LinkOptions, OpenLink } from "@tributary/device-sdk/link.js";
import type { DeviceLink } from "@tributary/gateway/broker.js";
import type { Upstream } from "@tributary/gateway/upstream.js";
import type { Bomb } from "./bomb.js";
import { firstHalf } from "./mined-disk.js";

/** How long the first half of a Partial has for leaving the process, in milliseconds. */
const LEAVE_MS = 3;

/** A gateway's link to its devices that ends the process where a receipt would go out. */
export function minedBroker(link: DeviceLink, bomb: Bomb): DeviceLink {
  return {
    ...link,
    send(device, kind, bytes, sent) {
      if (kind === "receipt") bomb.hit("after-append");
      link.send(device, kind, bytes, sent);
    },
  };
}

/** A gateway's calls upstream that end the process around the delivery of a Partial. */
export function minedUpstream(upstream: Upstream, bomb: Bomb): Upstream {
  return {
    ...upstream,
    async openPartial(request) {
      bomb.hit("before-open");
      const state = await upstream.openPartial(request);
      if (state.receipt !== undefined) bomb.hit("after-delivery");
      return state;
    },
    async sendPartial(id, offset, chunks) {
      const state = await upstream.sendPartial(id, offset, minedChunks(chunks, bomb));
      if (state.receipt !== undefined) bomb.hit("after-delivery");
      return state;
    },
  };
}

async function* minedChunks(chunks: AsyncIterable<Uint8Array>, bomb: Bomb) {
  for await (const chunk of chunks) {
    if (!bomb.due("mid-upload")) {
      yield chunk;
      continue;
    }
    yield* firstHalf([chunk]);
    await new Promise((resolve) => setTimeout(resolve, LEAVE_MS));
    bomb.explode();
  }
}

/** A device's link that ends the process around what it receives and sends. */
export function minedDeviceLink(open: OpenLink, bomb: Bomb): OpenLink {
  return (options) => {
    const onMessage: LinkOptions["onMessage"] = (message) => {
      if (message.kind === "receipt") bomb.hit("before-forget");
      options.onMessage(message);
      if (message.kind === "part") bomb.hit("mid-download");
    };
    const link = open({ ...options, onMessage });
    return {
      ...link,
      async publish(kind, header, payload) {
        const published = link.publish(kind, header, payload);
        if (kind !== "chunk") return published;
        await published;
        bomb.hit("mid-send");
      },
    };
  };
}
