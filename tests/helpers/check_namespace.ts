/**
 * An independent checker of what is stored in a filesystem's namespace: the invariants of 02 §24 on
 * committed items. It shares no code with the operations beyond the format's structures.
 */

import {
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE,
  TYPE_INODE_INDEX_META_SEQ,
  TYPE_LINK_BACKREF,
  TYPE_READDIR,
  TYPE_SRCH_BLOCKS,
  TYPE_SRCH_LOG,
  TYPE_SYMLINK,
  TYPE_XATTR,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_ORPHAN,
  ZONE_XATTR_INDX,
  ZONE_XATTR_TOTL,
} from "../../format/constants.ts";
import { direntHash, srchNameHash, xattrNameHash } from "../../format/hash.ts";
import { xattrIndxKey, xattrTotlKey } from "../../format/item_keys.ts";
import { DataExtentVal, Dirent, Inode, Xattr, XattrTotlVal } from "../../format/items.ts";
import { bytesEqual, toHex } from "../../format/bytes.ts";
import { Key } from "../../format/key.ts";
import type { LogTrees } from "../../format/log_trees.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import type { BlockCache } from "../../fs/block_cache.ts";
import { forEachItem } from "../../fs/btree.ts";
import { forEachLogTree } from "../../fs/forest.ts";
import { readSrch } from "../../fs/srch_file.ts";
import { SrchFile } from "../../format/srch.ts";

/** Search entries that say "exists": those recorded an odd number of times, as `hash.ino.id`. */
export function collectSearch(
  cache: BlockCache,
  roots: { srchRoot: BtreeRoot; logsRoot: BtreeRoot },
): Set<string> {
  const found = new Set<string>();
  const take = (file: SrchFile): void => {
    if (file.blocks === 0) return;
    readSrch({ cache }, file, (e) => {
      const name = `${e.hash}.${e.ino}.${e.id}`;
      if (!found.delete(name)) found.add(name);
    });
  };
  forEachLogTree({ cache }, roots.logsRoot, (lt: LogTrees) => take(lt.srchFile));
  forEachItem({ cache }, roots.srchRoot, Key.ZEROS, (item) => {
    if (item.key.type === TYPE_SRCH_LOG || item.key.type === TYPE_SRCH_BLOCKS) {
      take(SrchFile.at(item.val.slice()));
    }
  });
  return found;
}

export interface StoredItem {
  readonly key: Key;
  readonly val: Uint8Array;
}

const S_IFMT = 0o170000;
const PART = 896;

/**
 * The merged items of all trees in key order: the greatest version of each key, without deletions;
 * totals are summed. (Volumes in the middle of a log merge need more care, 02 §18.3.)
 */
export function collectItems(
  cache: BlockCache,
  roots: { fsRoot: BtreeRoot; logsRoot: BtreeRoot },
): StoredItem[] {
  const newest = new Map<string, { key: Key; seq: number; flags: number; val: Uint8Array }>();
  const take = (root: BtreeRoot): void => {
    forEachItem({ cache }, root, Key.ZEROS, (item) => {
      const name = item.key.toString();
      const old = newest.get(name);
      if (item.key.zone === ZONE_XATTR_TOTL && old !== undefined) {
        const a = XattrTotlVal.at(old.val);
        const b = XattrTotlVal.at(item.val);
        a.total = BigInt.asUintN(64, a.total + b.total);
        a.count += b.count;
      } else if (old === undefined || item.seq > old.seq) {
        newest.set(name, {
          key: item.key,
          seq: item.seq,
          flags: item.flags,
          val: item.val.slice(),
        });
      }
    });
  };
  take(roots.fsRoot);
  forEachLogTree({ cache }, roots.logsRoot, (lt: LogTrees) => take(lt.itemRoot));
  return [...newest.values()]
    .filter((i) => i.flags === 0)
    .filter((i) => i.key.zone !== ZONE_XATTR_TOTL || i.val.some((b) => b !== 0))
    .sort((a, b) => a.key.compare(b.key));
}

interface Node {
  ino: number;
  inode: Inode;
  dirents: { pos: number; name: Uint8Array; type: number }[];
  backrefs: number;
  xattrs: { id: number; name: Uint8Array; value: Uint8Array }[];
  symlink: Uint8Array[];
  extents: { start: number; len: number; blkno: number; flags: number }[];
}

/** All violations found, one line each; none for a sound namespace. */
export function checkNamespace(
  items: readonly StoredItem[],
  inodeCount?: number,
  search?: ReadonlySet<string>,
): string[] {
  const problems: string[] = [];
  const bad = (text: string): void => void problems.push(text);
  const byKey = new Map(items.map((i) => [i.key.toString(), i.val]));
  const nodes = new Map<number, Node>();
  const orphans = new Set<number>();
  const metaIndex = new Map<number, number[]>();
  const dataIndex = new Map<number, number[]>();
  const partial = new Map<string, { id: number; parts: Uint8Array[] }>();

  const push = (map: Map<number, number[]>, ino: number, seq: number): void => {
    map.set(ino, [...map.get(ino) ?? [], seq]);
  };

  for (const { key, val } of items) {
    if (key.zone === ZONE_ORPHAN) orphans.add(key.second);
    if (key.zone === ZONE_INODE_INDEX) {
      push(key.type === TYPE_INODE_INDEX_META_SEQ ? metaIndex : dataIndex, key.third, key.second);
    }
    if (key.zone === ZONE_FS && key.type === TYPE_INODE) {
      nodes.set(key.first, {
        ino: key.first,
        inode: Inode.read(val, 2),
        dirents: [],
        backrefs: 0,
        xattrs: [],
        symlink: [],
        extents: [],
      });
    }
  }
  const has = (key: string, val: Uint8Array, what: string): void => {
    const other = byKey.get(key);
    if (other === undefined) bad(`${what} has no item ${key}`);
    else if (!bytesEqual(other, val)) bad(`${what} differs from item ${key}`);
  };

  for (const { key, val } of items) {
    if (key.zone !== ZONE_FS || key.type === TYPE_INODE) continue;
    const node = nodes.get(key.first);
    if (node === undefined) {
      bad(`item ${key} belongs to no inode`);
      continue;
    }
    switch (key.type) {
      case TYPE_DIRENT:
      case TYPE_READDIR:
      case TYPE_LINK_BACKREF: {
        const d = Dirent.at(val);
        const name = val.subarray(Dirent.SIZE);
        const hash = direntHash(name);
        if (name.length < 1 || name.length > 255) bad(`${key}: name of ${name.length} bytes`);
        if (d.hashHi !== hash.hi || d.hashLo !== hash.lo) bad(`${key}: wrong hash in the value`);
        const dir = key.type === TYPE_LINK_BACKREF ? key.second : key.first;
        const big = (BigInt(hash.hi) << 32n) | BigInt(hash.lo);
        has(`16.${dir}.12.${big}.${d.pos}.0`, val, `${key}`);
        has(`16.${dir}.16.${d.pos}.0.0`, val, `${key}`);
        has(`16.${d.ino}.20.${dir}.${d.pos}.0`, val, `${key}`);
        if (key.type === TYPE_LINK_BACKREF) node.backrefs++;
        if (key.type === TYPE_READDIR) node.dirents.push({ pos: d.pos, name, type: d.type });
        const target = nodes.get(d.ino);
        if (target !== undefined && (target.inode.mode & S_IFMT) >> 13 !== d.type) {
          bad(`${key}: type ${d.type} is not that of inode ${d.ino}`);
        }
        break;
      }
      case TYPE_XATTR: {
        const name = `${key.first}.${key.secondBig}.${key.third}`;
        // A deletion that was interrupted leaves later parts without their first (02 §6.4).
        if (node.inode.nlink === 0 && key.fourth > 0 && !partial.has(name)) break;
        const entry = partial.get(name) ?? { id: key.third, parts: [] };
        if (entry.parts.length !== key.fourth) bad(`${key}: parts have a gap`);
        entry.parts.push(val);
        partial.set(name, entry);
        const head = entry.parts[0]!;
        const { nameLen, valLen } = Xattr.at(head);
        const total = Xattr.SIZE + nameLen + valLen;
        const have = entry.parts.reduce((n, p) => n + p.length, 0);
        if (have < total && val.length !== PART) bad(`${key}: short part`);
        if (have >= total) {
          if (have > total) bad(`${key}: ${have} bytes instead of ${total}`);
          const whole = new Uint8Array(have);
          entry.parts.reduce((at, p) => (whole.set(p, at), at + p.length), 0);
          const xname = whole.slice(Xattr.SIZE, Xattr.SIZE + nameLen);
          if (xattrNameHash(xname) !== key.secondLo) bad(`${key}: wrong name hash`);
          node.xattrs.push({ id: key.third, name: xname, value: whole.slice(total - valLen) });
          partial.delete(name);
        }
        break;
      }
      case TYPE_SYMLINK:
        if (key.second !== node.symlink.length) bad(`${key}: parts have a gap`);
        node.symlink.push(val);
        break;
      case TYPE_DATA_EXTENT: {
        const e = DataExtentVal.at(val);
        const start = key.second - key.third + 1;
        node.extents.push({ start, len: key.third, blkno: e.blkno, flags: e.flags });
        break;
      }
      default:
        bad(`item ${key} of unknown type`);
    }
  }
  for (const name of partial.keys()) bad(`xattr ${name} is not complete`);

  const totals = new Map<string, { total: bigint; count: bigint }>();
  const indexed = new Set<string>();
  const searchable = new Set<string>();
  if (!nodes.has(1)) bad("there is no root directory");
  for (const node of nodes.values()) {
    checkInode(node, orphans, metaIndex, dataIndex, bad);
    for (const x of node.xattrs) addTags(node.ino, x, totals, indexed, searchable);
  }
  for (const ino of orphans) if (!nodes.has(ino)) bad(`orphan item of no inode ${ino}`);
  for (const ino of [...metaIndex.keys(), ...dataIndex.keys()]) {
    if (!nodes.has(ino)) bad(`index item of no inode ${ino}`);
  }
  for (const { key, val } of items) {
    if (key.zone === ZONE_XATTR_TOTL) {
      const want = totals.get(key.toString());
      const is = XattrTotlVal.at(val);
      if (want === undefined || want.total !== is.total || want.count !== is.count) {
        bad(`total ${key} is ${is.total}, ${is.count}; should be ${want?.total}, ${want?.count}`);
      }
      totals.delete(key.toString());
    }
    if (key.zone === ZONE_XATTR_INDX && !indexed.delete(key.toString())) {
      bad(`xattr index item ${key} of no xattr`);
    }
  }
  for (const [key, { total, count }] of totals) {
    if (total !== 0n || count !== 0n) bad(`no total ${key}, should be ${total}, ${count}`);
  }
  for (const key of indexed) bad(`no xattr index item ${key}`);
  if (search !== undefined) {
    for (const e of search) if (!searchable.has(e)) bad(`search entry ${e} of no xattr`);
    for (const e of searchable) if (!search.has(e)) bad(`no search entry ${e}`);
  }
  if (inodeCount !== undefined && inodeCount !== nodes.size) {
    bad(`inode count is ${inodeCount}, there are ${nodes.size}`);
  }
  return problems;
}

function checkInode(
  node: Node,
  orphans: Set<number>,
  metaIndex: Map<number, number[]>,
  dataIndex: Map<number, number[]>,
  bad: (text: string) => void,
): void {
  const { ino, inode } = node;
  const dir = (inode.mode & S_IFMT) === 0o040000;
  const reg = (inode.mode & S_IFMT) === 0o100000;
  const links = inode.nlink === 0 ? 0 : dir ? 1 : inode.nlink;
  if (ino !== 1 && node.backrefs !== links) {
    bad(`inode ${ino} has nlink ${inode.nlink} but ${node.backrefs} links`);
  }
  if ((inode.nlink === 0) !== orphans.has(ino)) {
    bad(`inode ${ino} has nlink ${inode.nlink}, orphan item: ${orphans.has(ino)}`);
  }
  const same = (list: number[] | undefined, seq: number): boolean =>
    list !== undefined && list.length === 1 && list[0] === seq;
  if (!same(metaIndex.get(ino), inode.metaSeq)) {
    bad(`inode ${ino}: meta_seq ${inode.metaSeq}, index ${metaIndex.get(ino)}`);
  }
  if (reg ? !same(dataIndex.get(ino), inode.dataSeq) : dataIndex.has(ino)) {
    bad(`inode ${ino}: data_seq ${inode.dataSeq}, index ${dataIndex.get(ino)}`);
  }
  if (dir) {
    let size = 0;
    let subdirs = 0;
    const names = new Set<string>();
    for (const d of node.dirents) {
      size += d.name.length;
      if (d.type === 2) subdirs++;
      if (names.has(toHex(d.name))) bad(`directory ${ino} has the name ${toHex(d.name)} twice`);
      names.add(toHex(d.name));
      if (d.pos < 2 || d.pos >= inode.nextReaddirPos) {
        bad(`directory ${ino}: position ${d.pos}, next is ${inode.nextReaddirPos}`);
      }
    }
    if (size !== inode.size) bad(`directory ${ino}: size ${inode.size}, names have ${size}`);
    if (inode.nlink !== 0 && inode.nlink !== 2 + subdirs) {
      bad(`directory ${ino}: nlink ${inode.nlink}, ${subdirs} subdirectories`);
    }
  } else if (node.dirents.length > 0) bad(`inode ${ino} has entries but is no directory`);

  const ids = new Set<number>();
  const xnames = new Set<string>();
  for (const x of node.xattrs) {
    if (x.id >= inode.nextXattrId) bad(`inode ${ino}: xattr id ${x.id} not below the next one`);
    if (ids.has(x.id)) bad(`inode ${ino}: xattr id ${x.id} twice`);
    if (xnames.has(toHex(x.name))) bad(`inode ${ino}: xattr ${toHex(x.name)} twice`);
    ids.add(x.id);
    xnames.add(toHex(x.name));
  }
  if ((inode.mode & S_IFMT) === 0o120000) {
    const bytes = node.symlink.reduce((n, p) => n + p.length, 0);
    if (bytes !== inode.size) bad(`symlink ${ino}: size ${inode.size}, target of ${bytes}`);
    if (node.symlink.some((p, i) => i < node.symlink.length - 1 && p.length !== PART)) {
      bad(`symlink ${ino}: short part`);
    }
    if (node.symlink.at(-1)?.at(-1) !== 0) bad(`symlink ${ino}: no NUL`);
  } else if (node.symlink.length > 0) bad(`inode ${ino} has a target but is no symlink`);

  let online = 0;
  let offline = 0;
  let before: Node["extents"][number] | null = null;
  for (const e of node.extents) {
    const mapped = e.blkno !== 0;
    if (!mapped && e.flags === 0) bad(`inode ${ino}: extent of nothing at ${e.start}`);
    if (mapped && e.flags === 1) bad(`inode ${ino}: mapped offline extent at ${e.start}`);
    if (mapped && e.blkno < 64) bad(`inode ${ino}: data block ${e.blkno}`);
    if (mapped && (e.flags & 2) === 0) online += e.len;
    if ((e.flags & 1) !== 0) offline += e.len;
    if (before !== null) {
      if (before.start + before.len > e.start) bad(`inode ${ino}: extents overlap at ${e.start}`);
      const joins = before.blkno === 0 ? !mapped : before.blkno + before.len === e.blkno;
      if (before.start + before.len === e.start && before.flags === e.flags && joins) {
        bad(`inode ${ino}: extents not merged at ${e.start}`);
      }
    }
    before = e;
  }
  // A deletion that was interrupted has freed extents without counting (02 §6.4).
  const counted = online === inode.onlineBlocks && offline === inode.offlineBlocks;
  if (!counted && inode.nlink > 0) {
    bad(
      `inode ${ino}: ${inode.onlineBlocks} online, ${inode.offlineBlocks} offline blocks; ` +
        `extents have ${online}, ${offline}`,
    );
  }
}

/** What an attribute's tags promise in zones 12 and 14. */
function addTags(
  ino: number,
  x: { id: number; name: Uint8Array; value: Uint8Array },
  totals: Map<string, { total: bigint; count: bigint }>,
  indexed: Set<string>,
  searchable: Set<string>,
): void {
  const text = new TextDecoder("latin1").decode(x.name);
  const tags = /^scoutfs\.((?:(?:hide|indx|srch|totl)\.)+)/.exec(text)?.[1] ?? "";
  if (text.length < 14) return;
  const number = (s: string): bigint => /^0[0-7]+$/.test(s) ? BigInt(`0o${s.slice(1)}`) : BigInt(s);
  if (tags.includes("srch.")) searchable.add(`${srchNameHash(x.name)}.${ino}.${x.id}`);
  const ends = text.split(".");
  if (tags.includes("totl.")) {
    const [a, b, c] = ends.slice(-3).map(number) as [bigint, bigint, bigint];
    const key = xattrTotlKey(a, b, c).toString();
    const sum = totals.get(key) ?? { total: 0n, count: 0n };
    const value = number(new TextDecoder().decode(x.value).replace(/\n?\0.*$/s, ""));
    totals.set(key, {
      total: BigInt.asUintN(64, sum.total + value),
      count: sum.count + 1n,
    });
  } else if (tags.includes("indx.")) {
    const [major, minor] = ends.slice(-2).map(number) as [bigint, bigint];
    indexed.add(xattrIndxKey(Number(major), minor, ino, x.id).toString());
  }
}
