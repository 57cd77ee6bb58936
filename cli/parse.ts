/**
 * Numbers, sizes and times as commands take them (05 §11). A wrong one is an FsError that carries
 * the line to print.
 */

import { parseIpv4 } from "../format/block.ts";
import { QUORUM_MAX_SLOTS } from "../format/constants.ts";
import { ERANGE } from "../format/errno.ts";
import { FsError } from "../fs/errors.ts";
import type { QuorumSlotSetting } from "../fs/mkfs.ts";
import { invalidValue } from "./command.ts";

const U64_MAX = 0xffff_ffff_ffff_ffffn;
const S64_MAX = 0x7fff_ffff_ffff_ffffn;
const NUMBER = /^\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)/;

/** The number at the start of `text` in C notation, and what follows it. */
function leadingNumber(text: string): { value: bigint; rest: string } | undefined {
  const m = NUMBER.exec(text);
  if (m === null) return undefined;
  const [all, sign, digits] = m as unknown as [string, string, string];
  const octal = /^0[0-7]/.test(digits);
  const value = BigInt(octal ? `0o${digits.slice(1)}` : digits);
  return { value: sign === "-" ? -value : value, rest: text.slice(all.length) };
}

/** An unsigned 64-bit number in decimal, 0x or octal notation; −1 stands for 2^64−1. */
export function parseU64(text: string): bigint {
  const n = leadingNumber(text);
  if (n === undefined || n.rest !== "" || n.value > U64_MAX || n.value < -U64_MAX) {
    throw invalidValue(`invalid 64bit value: '${text}'`);
  }
  return BigInt.asUintN(64, n.value);
}

/** A signed 64-bit number in decimal, 0x or octal notation. */
export function parseS64(text: string): bigint {
  const n = leadingNumber(text);
  if (n === undefined || n.rest !== "" || n.value > S64_MAX || n.value < -S64_MAX - 1n) {
    throw invalidValue(`invalid 64bit value: '${text}'`);
  }
  return n.value;
}

/** A number between `min` and `max`; ERANGE outside. */
export function parseNumber(text: string, min: number, max: number): number {
  const value = parseS64(text);
  if (value < BigInt(min) || value > BigInt(max)) {
    throw new FsError(ERANGE, `value '${text}' must be between ${min} and ${max}`);
  }
  return Number(value);
}

const SUFFIXES = "KMGTP";

/**
 * Bytes: a number with an optional K, M, G, T or P, powers of 1024. What follows that one letter
 * is ignored, so that "10KB" and "10KiB" mean 10K.
 */
export function parseSize(text: string): bigint {
  const n = leadingNumber(text);
  if (n === undefined || n.value < 0n) throw invalidValue(`invalid 64bit value: '${text}'`);
  let value = n.value;
  if (n.rest !== "") {
    const power = SUFFIXES.indexOf(n.rest.charAt(0));
    if (power < 0) throw new FsError(ERANGE, `unknown suffix: '${n.rest.charAt(0)}'`);
    value <<= BigInt(10 * (power + 1));
  }
  if (value > U64_MAX) throw new FsError(ERANGE, `size '${text}' is beyond 2^64−1 bytes`);
  return value;
}

/** `SEC.NSEC`: two integers, so that "5.1" is 5 s and 1 ns. */
export function parseTimespec(text: string): { sec: bigint; nsec: number } {
  const m = /^([^.]+)\.([^.]+)$/.exec(text);
  const sec = m === null ? undefined : leadingNumber(m[1] as string);
  const nsec = m === null ? undefined : leadingNumber(m[2] as string);
  if (
    sec === undefined || sec.rest !== "" || sec.value > S64_MAX || sec.value < -S64_MAX ||
    nsec === undefined || nsec.rest !== "" || nsec.value < 0n || nsec.value > 1_000_000_000n
  ) throw invalidValue(`invalid timespec string: '${text}'`);
  return { sec: sec.value, nsec: Number(nsec.value) };
}

/** A quorum slot `NR,ADDR,PORT`; what is wrong with it, if that is none. */
export function parseQuorumSlot(text: string): QuorumSlotSetting | string {
  const m = /^(\d+),([^,]+),(\d+)$/.exec(text);
  if (m === null) return `extra unparsed trailing characters in quorum slot '${text}'`;
  const [, nrText, addrText, portText] = m as unknown as [string, string, string, string];
  const nr = Number(nrText), port = Number(portText), addr = parseIpv4(addrText);
  if (nr >= QUORUM_MAX_SLOTS) {
    return `invalid nr '${nr}' in quorum slot '${text}', must be between 0 and ${
      QUORUM_MAX_SLOTS - 1
    }`;
  }
  if (port < 1 || port > 65535) {
    return `invalid ipv4 port '${portText}' in quorum slot '${text}', must be between 1 and 65535`;
  }
  if (addr === undefined || addr === 0 || addr === 0xffff_ffff) {
    return `invalid ipv4 address '${addrText}' in quorum slot '${text}'`;
  }
  return { nr, addr, port };
}
