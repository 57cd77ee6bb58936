/**
 * The items of a small made-up filesystem: inodes, names, attributes, extents and everything that is
 * derived from them, consistent by construction. For volumes that volume_builder.ts writes.
 */

import { XATTR_PART_SIZE as PART_BYTES } from "../../format/constants.ts";
import { direntHash, srchNameHash, xattrNameHash } from "../../format/hash.ts";
import {
  backrefKey,
  DataExtentVal,
  dataSeqKey,
  Dirent,
  direntKey,
  extentKey,
  Inode,
  inodeKey,
  metaSeqKey,
  orphanKey,
  quotaRuleKey,
  QuotaRuleVal,
  readdirKey,
  symlinkKey,
  Xattr,
  xattrIndxKey,
  xattrKey,
  xattrTotlKey,
  XattrTotlVal,
} from "../../format/items.ts";
import { fnv1a64 } from "../../format/hash.ts";
import type { BuildItem, Entry, Run } from "./volume_builder.ts";

export const DIR = 0o40755;
export const FILE = 0o100644;
export const LINK = 0o120777;
const S_IFMT = 0o170000;

/** Type of an entry for each file type of a mode (01 §15.3). */
const ENTRY_TYPES: Readonly<Record<number, number>> = {
  0o010000: 0,
  0o020000: 1,
  0o040000: 2,
  0o060000: 3,
  0o100000: 4,
  0o120000: 5,
  0o140000: 6,
};

export interface Extent {
  readonly start: number;
  readonly len: number;
  /** 0 = unmapped. */
  readonly blkno: number;
  readonly flags?: number;
}

interface Attr {
  readonly name: string;
  readonly value: string;
  readonly id: number;
}

export interface Node {
  readonly ino: number;
  readonly mode: number;
  metaSeq: number;
  dataSeq: number;
  size: number;
  nlink: number;
  rdev: number;
  flags: number;
  nextPos: number;
  target: string;
  /** Value bytes, 160 for an inode of format version 1. */
  bytes: number;
  readonly attrs: Attr[];
  nextAttr: number;
  readonly extents: Extent[];
  /** Names of this inode. */
  readonly links: { dir: number; name: string; pos: number }[];
}

const utf8 = (s: string): Uint8Array => new TextEncoder().encode(s);

export class Namespace {
  readonly nodes = new Map<number, Node>();
  readonly rules: BuildItem[] = [];

  /** An inode without a name yet. */
  node(ino: number, mode: number, fields: Partial<Node> = {}): Node {
    const isDir = (mode & S_IFMT) === 0o040000;
    const n: Node = {
      ino,
      mode,
      metaSeq: 10 + ino % 7,
      dataSeq: 20 + ino % 5,
      size: 0,
      nlink: isDir ? 2 : 0,
      rdev: 0,
      flags: 0,
      nextPos: 2,
      target: "",
      bytes: 168,
      attrs: [],
      nextAttr: 0,
      extents: [],
      links: [],
      ...fields,
    };
    if (n.target !== "") n.size = utf8(n.target).length + 1;
    this.nodes.set(ino, n);
    return n;
  }

  /** Names an inode. */
  link(dir: number, name: string, ino: number): void {
    const d = this.nodes.get(dir)!, n = this.nodes.get(ino)!;
    n.links.push({ dir, name, pos: d.nextPos++ });
    d.size += utf8(name).length;
    if ((n.mode & S_IFMT) === 0o040000) d.nlink++;
    else n.nlink++;
  }

  attr(ino: number, name: string, value = ""): void {
    const n = this.nodes.get(ino)!;
    n.attrs.push({ name, value, id: n.nextAttr++ });
  }

  rule(rule: QuotaRuleVal, coll = 0): void {
    const val = rule.bytes.slice();
    this.rules.push({ key: quotaRuleKey(fnv1a64(val), coll), val });
  }

  /** Data blocks in use. */
  usedData(): Run[] {
    return [...this.nodes.values()].flatMap((n) =>
      n.extents.filter((e) => e.blkno !== 0).map((e) => ({ start: e.blkno, len: e.len }))
    );
  }

  /** What a search for attributes must find. */
  searchEntries(): Entry[] {
    return [...this.nodes.values()].flatMap((n) =>
      n.attrs.filter((a) => tagsOf(a.name).includes("srch.")).map((a) => ({
        hash: srchNameHash(utf8(a.name)),
        ino: n.ino,
        id: a.id,
      }))
    );
  }

  /** All items in the order of their keys. */
  items(seq = 1): BuildItem[] {
    const items: BuildItem[] = [...this.rules];
    const totals = new Map<string, { key: BuildItem["key"]; total: bigint; count: bigint }>();
    for (const n of this.nodes.values()) {
      this.#node(n, items);
      for (const a of n.attrs) this.#attr(n, a, items, totals);
    }
    for (const { key, total, count } of totals.values()) {
      const val = XattrTotlVal.alloc();
      val.v.setBigUint64(0, total, true);
      val.v.setBigUint64(8, count, true);
      items.push({ key, val: val.bytes });
    }
    return sortItems(items.map((i) => ({ ...i, seq })));
  }

  #node(n: Node, items: BuildItem[]): void {
    items.push({ key: inodeKey(n.ino), val: inodeVal(n) }, {
      key: metaSeqKey(n.metaSeq, n.ino),
      val: NONE,
    });
    if ((n.mode & S_IFMT) === 0o100000) {
      items.push({ key: dataSeqKey(n.dataSeq, n.ino), val: NONE });
    }
    if (n.nlink === 0) items.push({ key: orphanKey(n.ino), val: NONE });
    for (const l of n.links) items.push(...linkItems(l.dir, l.name, l.pos, n));
    for (const e of n.extents) {
      const val = DataExtentVal.alloc();
      val.blkno = e.blkno;
      val.flags = e.flags ?? 0;
      items.push({ key: extentKey(n.ino, e.start + e.len - 1, e.len), val: val.bytes });
    }
    if (n.target !== "") {
      const bytes = new Uint8Array(n.size);
      bytes.set(utf8(n.target));
      for (let at = 0, nr = 0; at < bytes.length; at += PART_BYTES, nr++) {
        items.push({ key: symlinkKey(n.ino, nr), val: bytes.slice(at, at + PART_BYTES) });
      }
    }
  }

  #attr(
    n: Node,
    a: Attr,
    items: BuildItem[],
    totals: Map<string, { key: BuildItem["key"]; total: bigint; count: bigint }>,
  ): void {
    const name = utf8(a.name), value = utf8(a.value);
    const bytes = new Uint8Array(Xattr.SIZE + name.length + value.length);
    const head = Xattr.at(bytes);
    head.valLen = value.length;
    head.nameLen = name.length;
    bytes.set(name, Xattr.SIZE);
    bytes.set(value, Xattr.SIZE + name.length);
    const hash = xattrNameHash(name);
    for (let at = 0, part = 0; at < bytes.length; at += PART_BYTES, part++) {
      items.push({ key: xattrKey(n.ino, hash, a.id, part), val: bytes.slice(at, at + PART_BYTES) });
    }
    const tags = tagsOf(a.name), words = a.name.split(".");
    if (tags.includes("totl.")) {
      const [x, y, z] = words.slice(-3).map(BigInt) as [bigint, bigint, bigint];
      const key = xattrTotlKey(x, y, z), at = key.toString();
      const t = totals.get(at) ?? { key, total: 0n, count: 0n };
      totals.set(at, { key, total: t.total + BigInt(a.value), count: t.count + 1n });
    }
    if (tags.includes("indx.")) {
      const [major, minor] = words.slice(-2) as [string, string];
      items.push({
        key: xattrIndxKey(Number(major), BigInt(minor), BigInt(n.ino), BigInt(a.id)),
        val: NONE,
      });
    }
  }
}

const NONE = new Uint8Array(0);

/** The tags of a name such as `scoutfs.hide.srch.x`. */
export function tagsOf(name: string): string[] {
  if (!name.startsWith("scoutfs.")) return [];
  const tags: string[] = [];
  for (let at = 8; /^(hide|srch|totl|indx)\.$/.test(name.slice(at, at + 5)); at += 5) {
    tags.push(name.slice(at, at + 5));
  }
  return tags;
}

export function sortItems(items: BuildItem[]): BuildItem[] {
  return items.sort((a, b) => a.key.compare(b.key));
}

export function inodeVal(n: Node): Uint8Array {
  const i = Inode.at(new Uint8Array(Inode.SIZE));
  i.size = n.size;
  i.metaSeq = n.metaSeq;
  i.dataSeq = n.dataSeq;
  i.dataVersion = (n.mode & S_IFMT) === 0o100000 ? 3 : 0;
  i.nextReaddirPos = n.nextPos;
  i.nextXattrId = n.nextAttr;
  i.version = 5;
  i.nlink = n.nlink;
  i.uid = 1000;
  i.gid = 100;
  i.mode = n.mode;
  i.rdev = n.rdev;
  i.flags = n.flags;
  for (const e of n.extents) {
    const flags = e.flags ?? 0;
    if (e.blkno !== 0 && (flags & 2) === 0) i.onlineBlocks += e.len;
    else if ((flags & 1) !== 0) i.offlineBlocks += e.len;
  }
  for (const t of [i.atime, i.mtime, i.ctime, i.crtime]) {
    t.sec = 1_700_000_000;
    t.nsec = 123_456_789;
  }
  i.proj = 7n;
  return i.bytes.slice(0, n.bytes);
}

export function linkItems(dir: number, name: string, pos: number, n: Node): BuildItem[] {
  const bytes = utf8(name), hash = direntHash(bytes);
  const val = new Uint8Array(Dirent.SIZE + bytes.length);
  const d = Dirent.at(val);
  d.ino = n.ino;
  d.hashHi = hash.hi;
  d.hashLo = hash.lo;
  d.pos = pos;
  d.type = ENTRY_TYPES[n.mode & S_IFMT] as number;
  val.set(bytes, Dirent.SIZE);
  return [
    { key: direntKey(dir, hash, pos), val },
    { key: readdirKey(dir, pos), val },
    { key: backrefKey(n.ino, dir, pos), val },
  ];
}
