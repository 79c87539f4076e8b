import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type {
  AttachResponse,
  PlanRefused,
  RoundProgress,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { Announcement, PartialReceipt, Settled } from "@tributary/proto/tier/inbox.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";
import type { Baseline } from "./session.js";
import type { SessionView } from "./session-view.js";

/** One session on real parts. Everything that changes it runs one job at a time. */
export type SessionActor = {
  view(): SessionView;
  /** Whether its row says that it runs. */
  running(): boolean;
  settled(identity: PartialIdentity): Settled | undefined;
  /** Looks up what a round holds that a session which does not run left open. */
  recall(): Promise<void>;
  deliver(
    announcement: Announcement,
    partial: Sum,
    bytes: Uint8Array,
  ): Promise<Verdict<{ readonly receipt: PartialReceipt }>>;
  /** Gateways or devices came or went. */
  fleetChanged(): void;
  linkChanged(gateway: string, attached: boolean): void;
  progressed(gateway: string, progress: RoundProgress): void;
  planRefused(gateway: string, refused: PlanRefused): void;
  /** The open round, as a gateway that attached is to be told. */
  opened(gateway: string): AttachResponse | undefined;
  /** Begins, or goes on where the rows stand, an open round included. */
  run(): Promise<void>;
  stop(): Promise<void>;
  activate(model: string, baseline: Baseline | undefined): Promise<void>;
  close(): Promise<void>;
};
