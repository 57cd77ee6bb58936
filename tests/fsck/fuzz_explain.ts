/**
 * Why a check may say nothing about a damaged volume: each byte that was changed lies where nothing
 * refers to, in a field of the lists of those that cannot matter, or in an item that no reader sees.
 * This looks at the undamaged volume's structures, not at what the checker does.
 */

import {
  type BlockBytes,
  blockLevel,
  firstItem,
  itemFlags,
  itemKey,
  itemValLen,
  itemValOff,
  nextItem,
  nrItems,
} from "../../format/btree_block.ts";
import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
  MAGIC_ALLOC_LIST,
  MAGIC_BLOOM,
  MAGIC_BTREE,
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
  QUORUM_BLKNO,
  QUORUM_MAX_SLOTS,
  SM_SIZE,
  SUPER_BLKNO,
} from "../../format/constants.ts";
import { Xattr } from "../../format/items.ts";
import type { Key } from "../../format/key.ts";
import type { Device } from "../../fs/device.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { rawU64 } from "../../fs/check/raw.ts";
import { openVolume } from "../../fs/volume.ts";
import { CANNOT_MATTER } from "../check/cannot_matter.ts";
import { fieldAt, VALUES } from "../check/corpus.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { freedBefore, treeBlocks } from "./damage.ts";
import type { Image } from "./fuzz_device.ts";
import { SILENT } from "./silent.ts";

type Reasons = readonly (readonly [pattern: RegExp, reason: string])[];

/** Of SILENT, what is about which version of an item a reader sees: here that is looked up. */
const ALL: Reasons = [...CANNOT_MATTER, ...SILENT]
  .filter(([pattern]) => !/hides|fs_root 16\\\.4/.test(pattern.source));

/** What a change of several bytes of one field may be like. */
const HOWS = ["+1", "top bit", "ones", "zero", "changed"];

const latin1 = (bytes: Uint8Array): string => String.fromCharCode(...bytes);

const UNUSED = "unused bytes";
const UNREAD = "the version of a block that is freed unread";
const FREED = "a reference to a block that has been freed";

/** Bytes of items that only their user knows. */
const USERS: Reasons = [
  [/^16\.8 bytes$/, "the value of an attribute"],
  [/^16\.24 bytes$/, "the target of a symlink"],
  [/^16\.4 inode\.rdev$/, "the number of a device node; other inodes have none, which is checked"],
];

/** The items of a volume as a reader sees them, values as text. */
export function resolvedItems(meta: Device, data: Device): Map<string, string> {
  const reader = new VolumeReader(openVolume(meta, data), new SeededRandom(1));
  const items = new Map<string, string>();
  for (const { key, val } of reader.items()) items.set(key.toString(), val.join());
  return items;
}

/** What readers see differently in a damaged volume. */
export interface Seen {
  /** The fields, named as `seenReason` knows them. */
  readonly fields: readonly string[];
  readonly keys: ReadonlySet<string>;
}

export class Explainer {
  readonly #trees: ReadonlyMap<number, string>;
  readonly #freed: ReadonlyMap<number, Key>;
  #items: Map<string, string> | undefined;

  /** Key of the item that the byte asked for last is in. */
  #key: Key | null = null;
  #at = -1;
  #block: BlockBytes = { buf: new Uint8Array(0), v: new DataView(new ArrayBuffer(0)) };

  /** `image` holds the undamaged metadata device, as `meta` does; contents of others than `mattering`
   * blocks are never read. */
  constructor(
    private readonly image: Image,
    private readonly meta: Device,
    private readonly data: Device,
    private readonly mattering: ReadonlySet<number>,
  ) {
    this.#trees = new Map(
      treeBlocks(meta).map(({ tree, blkno }) => [blkno, tree.replace(/^(open|finalized) /, "")]),
    );
    this.#freed = freedBefore(meta);
  }

  /** What readers see differently. */
  seen(meta: Device, data: Device): Seen {
    const before = this.#items ??= resolvedItems(this.meta, this.data);
    const now = resolvedItems(meta, data), differing = new Set<string>(), keys = new Set<string>();
    for (const key of new Set([...before.keys(), ...now.keys()])) {
      const a = before.get(key), b = now.get(key);
      if (a === b) continue;
      keys.add(key);
      const [zone, , type] = key.split(".");
      const kind = `${zone}.${type}`, struct = VALUES[kind];
      const isHead = kind === "16.8" && !isPart(kind, key);
      if (isHead && a !== undefined && b === undefined && isAloneAndPlain(a)) continue;
      if (a === undefined || b === undefined) {
        differing.add(`${kind} item ${key}: ${a === undefined ? "again" : "missing"}`);
        continue;
      }
      const x = a.split(","), y = b.split(",");
      if (x.length !== y.length) differing.add(`${kind} length`);
      x.forEach((byte, i) => {
        if (byte === y[i]) return;
        const path = struct === undefined || isPart(kind, key) ? null : fieldAt(struct, i);
        differing.add(path === null ? `${kind} bytes` : `${kind} ${struct}.${path}`);
      });
    }
    return { fields: [...differing], keys };
  }

  /**
   * Why a change of one byte of the metadata device says nothing to a check; null when it must.
   * `seen`: what readers see differently now.
   */
  byte(off: number, seen: Seen): string | null {
    const name = this.nameOf(off), key = this.#key;
    if (name === UNUSED || name === UNREAD || name === FREED) return name;
    const hidden = key !== null && !seen.keys.has(key.toString());
    if (hidden && /^(fs_root|log tree) \d/.test(name)) {
      return "an item that no reader sees";
    }
    return userReason(name.replace(/^(fs_root|log tree) /, "")) ?? reasonOf(name);
  }

  /** The structure and field at a byte of the metadata device. */
  nameOf(off: number): string {
    const small = Math.floor(off / SM_SIZE);
    if (small === SUPER_BLKNO) return field("meta", "super_block", off % SM_SIZE);
    if (small >= QUORUM_BLKNO && small < QUORUM_BLKNO + QUORUM_MAX_SLOTS) {
      return field(`slot ${small - QUORUM_BLKNO}`, "quorum_block", off % SM_SIZE);
    }
    const blkno = Math.floor(off / LG_SIZE), at = off % LG_SIZE;
    if (this.#at !== blkno) {
      const buf = this.image.block(blkno);
      this.#block = { buf, v: new DataView(buf.buffer, buf.byteOffset, buf.length) };
      this.#at = blkno;
    }
    const b = this.#block;
    const u32 = (o: number) => b.v.getUint32(o, true);
    switch (u32(4)) {
      case MAGIC_BTREE:
        return this.#inTree(b, this.#trees.get(blkno) ?? "tree", at, this.#freed.get(blkno));
      case MAGIC_ALLOC_LIST: {
        const inUse = at < 56 || at >= 56 + 8 * u32(48) && at < 56 + 8 * (u32(48) + u32(52));
        return inUse ? field("list", "alloc_list_block", at) : UNUSED;
      }
      case MAGIC_BLOOM:
        return field("bloom", "bloom_block", at);
      case MAGIC_SRCH_BLOCK:
        return at < 112 + u32(108) ? field("search", "srch_block", at) : UNUSED;
      case MAGIC_SRCH_PARENT:
        return field("search", "srch_parent", at);
      default:
        return UNUSED;
    }
  }

  /** `freed`: children before that key have been freed. */
  #inTree(b: BlockBytes, tree: string, at: number, freed: Key | undefined): string {
    const level = blockLevel(b);
    this.#key = null;
    if (at < BTREE_HEADER_BYTES) return field(`${tree} level ${level}`, "btree_block", at);
    if (level === 0 && at >= LEAF_ITEM_HASH_OFF) return `${tree} leaf hash`;
    const inItems = at < BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * nrItems(b);
    for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) {
      const key = itemKey(b, i), off = itemValOff(b, i);
      const kind = level > 0 ? "parent" : `${key.zone}.${key.type}`;
      this.#key = key;
      if (inItems && at >= i && at < i + BTREE_ITEM_BYTES) {
        return field(`${tree} ${kind}`, "btree_item", at - i);
      }
      if (at < off || at >= off + itemValLen(b, i)) continue;
      if (freed !== undefined && key.compare(freed) < 0) return FREED;
      if (level > 0 && at - off >= 8 && !this.mattering.has(rawU64(b.v, off))) return UNREAD;
      const struct = level > 0
        ? "block_ref"
        : isPart(kind, key.toString())
        ? undefined
        : VALUES[kind];
      const deletion = itemFlags(b, i) === 1 ? " (deletion)" : "";
      if (struct === undefined) return `${tree} ${kind} bytes${deletion}`;
      return field(`${tree} ${kind}`, struct, at - off);
    }
    return UNUSED;
  }
}

/**
 * Whether the first part of an attribute, its bytes as text, is all of it, and its name has no tags:
 * nothing else speaks of it.
 */
function isAloneAndPlain(text: string): boolean {
  const part = Uint8Array.from(text.split(","), Number), { nameLen, valLen } = Xattr.at(part);
  const name = latin1(part.subarray(Xattr.SIZE, Xattr.SIZE + nameLen));
  return part.length === Xattr.SIZE + nameLen + valLen && !name.startsWith("scoutfs.");
}

/** A further part of an attribute, which has no header. */
const isPart = (kind: string, key: string): boolean => kind === "16.8" && !key.endsWith(".0");

function field(label: string, struct: string, off: number): string {
  const path = fieldAt(struct, off);
  return path === null ? UNUSED : `${label} ${struct}.${path}`;
}

const userReason = (name: string): string | undefined =>
  USERS.find(([pattern]) => pattern.test(name))?.[1];

/** The reason why readers may see an item differently, as `Explainer.seen` names it. */
export function seenReason(name: string): string | null {
  return userReason(name) ?? reasonOf(`log tree ${name}`) ?? reasonOf(`fs_root ${name}`);
}

/** The reason on the lists for a change of this name; null when there is none. */
export function reasonOf(name: string): string | null {
  for (const how of HOWS) {
    const found = ALL.find(([pattern]) => pattern.test(`${name} ${how}`));
    if (found !== undefined) return found[1];
  }
  return null;
}
