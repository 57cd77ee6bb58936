/** Sizes of the requests that a server gets, and what becomes of wrong ones (04 §19.1). */

import {
  CMD_ALLOC_INODES,
  CMD_CLEAR_VOLOPT,
  CMD_COMMIT_LOG_MERGE,
  CMD_COMMIT_LOG_TREES,
  CMD_FAREWELL,
  CMD_GET_LAST_SEQ,
  CMD_GET_LOG_MERGE,
  CMD_GET_LOG_TREES,
  CMD_GET_ROOTS,
  CMD_GET_VOLOPT,
  CMD_LOCK,
  CMD_NR,
  CMD_OPEN_INO_MAP,
  CMD_RESIZE_DEVICES,
  CMD_SET_VOLOPT,
  CMD_SRCH_COMMIT_COMPACT,
  CMD_SRCH_GET_COMPACT,
  CMD_STATFS,
} from "../format/wire.ts";

/** What a request of the wrong size gets: an EINVAL response, a zero response, or the socket closed. */
export type WhenMalformed = "einval" | "zeros" | "close";

export interface RequestRule {
  /** Payload bytes. */
  readonly size: number;
  readonly whenMalformed: WhenMalformed;
  /** Served by the store (03 §15), not by the cluster rooms. */
  readonly storage: boolean;
}

const rules: (RequestRule | null)[] = new Array(CMD_NR).fill(null);

function rule(cmd: number, size: number, whenMalformed: WhenMalformed, storage = true): void {
  rules[cmd] = { size, whenMalformed, storage };
}

rule(CMD_ALLOC_INODES, 8, "einval");
rule(CMD_GET_LOG_TREES, 0, "einval");
rule(CMD_COMMIT_LOG_TREES, 472, "einval");
rule(CMD_GET_ROOTS, 0, "zeros");
rule(CMD_GET_LAST_SEQ, 0, "einval");
rule(CMD_LOCK, 48, "close", false);
rule(CMD_SRCH_GET_COMPACT, 0, "einval");
rule(CMD_SRCH_COMMIT_COMPACT, 584, "einval");
rule(CMD_GET_LOG_MERGE, 0, "close");
rule(CMD_COMMIT_LOG_MERGE, 208, "close");
rule(CMD_OPEN_INO_MAP, 16, "einval", false);
rule(CMD_GET_VOLOPT, 0, "einval");
rule(CMD_SET_VOLOPT, 520, "einval");
rule(CMD_CLEAR_VOLOPT, 520, "einval");
rule(CMD_RESIZE_DEVICES, 16, "einval");
rule(CMD_STATFS, 0, "einval");
rule(CMD_FAREWELL, 0, "close", false);

/** Bytes of the GET_ROOTS response that a malformed request gets, all zero. */
export const ROOTS_BYTES = 72;

/** The rule for a request at the server; null when it serves no such command. */
export const requestRule = (cmd: number): RequestRule | null => rules[cmd] ?? null;

/** Payload bytes of the successful responses that a client gets; others are EMSGSIZE (04 §19.1). */
const responseSizes: ReadonlyMap<number, number> = new Map([
  [CMD_ALLOC_INODES, 16],
  [CMD_GET_LOG_TREES, 472],
  [CMD_COMMIT_LOG_TREES, 0],
  [CMD_GET_ROOTS, ROOTS_BYTES],
  [CMD_GET_LAST_SEQ, 8],
  [CMD_LOCK, 48],
  [CMD_SRCH_GET_COMPACT, 584],
  [CMD_SRCH_COMMIT_COMPACT, 0],
  [CMD_GET_LOG_MERGE, 208],
  [CMD_COMMIT_LOG_MERGE, 0],
  [CMD_OPEN_INO_MAP, 144],
  [CMD_GET_VOLOPT, 520],
  [CMD_SET_VOLOPT, 0],
  [CMD_CLEAR_VOLOPT, 0],
  [CMD_RESIZE_DEVICES, 0],
  [CMD_STATFS, 56],
  [CMD_FAREWELL, 0],
]);

export const responseSize = (cmd: number): number | undefined => responseSizes.get(cmd);
