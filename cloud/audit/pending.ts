import { AsyncLocalStorage } from "node:async_hooks";
import type { AuditEntry } from "./chain.js";

/**
 * The line that a request is to leave, until a transaction takes it. A request's work passes through
 * actors, queues and stores that know nothing of callers; the line follows it as its asynchronous context,
 * so that it comes into the very transaction that makes the change, whatever that is.
 */
export type PendingLine = { entry: AuditEntry | undefined };

const context = new AsyncLocalStorage<PendingLine>();

/** Adds to the line of the request that is under way, if there is one. */
export function noteLine(detail: AuditEntry["detail"]): void {
  const pending = context.getStore();
  if (pending?.entry === undefined) return;
  pending.entry = { ...pending.entry, detail: { ...pending.entry.detail, ...detail } };
}

/** Runs a request's work; the first durable transaction that changes something takes the line. */
export function withPending<T>(pending: PendingLine, work: () => T): T {
  return context.run(pending, work);
}

/** The line to write with a transaction; none where it was written, or nobody asked for the change. */
export function pendingLine(): PendingLine | undefined {
  const pending = context.getStore();
  return pending?.entry === undefined ? undefined : pending;
}
