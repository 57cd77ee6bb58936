/** The connection to the server as the engine sees it; net/client.ts implements it. */

/** Requests to the server and requests of the server (04 §11, §19). Payloads are copied. */
export interface ServerLink {
  /**
   * The server that is or was connected last runs in this process: it is this implementation, on the
   * same devices. So it takes COMMIT_LOG_TREES and GET_LOG_TREES at once (03 §28 point 8), and it
   * flushes the metadata device, with what this mount wrote to it, before its super write. If a
   * request that was submitted while this was true has to go to another server instead, the link
   * flushes the device first.
   */
  readonly ownServer: boolean;
  /**
   * Resolves with the response's payload (a buffer of its own). Resent over reconnects until
   * answered. Rejects with FsError: the server's errno, or ENOLINK after a forced shutdown.
   */
  request(cmd: number, payload: Uint8Array): Promise<Uint8Array>;
  /**
   * As `request`, but `complete` runs synchronously in arrival order, in the loop that calls
   * handlers. The payload is only valid during the call. Locks need it: a grant and the
   * invalidation right behind it must not overtake each other (04 §11.4).
   */
  submit(
    cmd: number,
    payload: Uint8Array,
    complete: (errno: number, payload: Uint8Array) => void,
  ): void;
  /**
   * Serves requests of the server. `fn` runs on receipt and must not block; it calls `respond`
   * once, then or later. Responses to a former server are dropped (04 §21.4). Throwing closes the
   * connection. The payload is only valid during the call.
   */
  setHandler(
    cmd: number,
    fn: (payload: Uint8Array, respond: (payload: Uint8Array) => void) => void,
  ): void;
}
