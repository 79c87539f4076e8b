/** Bounds of the REST API, with what happens at them. */
export const apiLimits = {
  /** A JSON body, in bytes. `too-large`. */
  jsonBytes: 256 * 1024,
  /** Items in one answer of a list. More asked for is `invalid-request`. */
  pageItems: 500,
  pageItemsDefault: 100,
  /** A cursor's characters. `invalid-request`. */
  cursorChars: 512,
  /** A problem's detail, in characters. Cut. */
  detailChars: 500,
  /** Issues named in one problem. Further ones are left out. */
  issuesShown: 20,
  /** Connections at a time. Further ones are closed. */
  connections: 256,
  /** From a connection to the end of its TLS handshake, in milliseconds; then it is closed. */
  handshakeMs: 10_000,
  /** Until a request has come whole, an upload included, in milliseconds; then it is ended. */
  requestMs: 30 * 60_000,
  /** A connection on which nothing moves is closed after so long, in milliseconds. */
  idleMs: 60_000,
  /** A model download is read in pieces of so many bytes. */
  fileChunkBytes: 256 * 1024,
  /** Shutdown waits so long for requests under way, in milliseconds. */
  closeMs: 5_000,
} as const;
