/**
 * The corruption corpus: every field of every structure in an image, one change at a time, with the
 * block's checksum made right again, so that only the meaning is wrong. The fields come from the
 * layout tables in the doc comments of format/, so a structure cannot be forgotten in part.
 */

import { BlockRef } from "../../format/block.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import {
  blockLevel,
  firstItem,
  itemKey,
  itemVal,
  itemValOff,
  nextItem,
} from "../../format/btree_block.ts";
import { AllocListHead } from "../../format/alloc.ts";
import {
  LG_SIZE,
  SM_SIZE,
  SRCH_COMPACT_DELETE,
  SUPER_BLKNO,
  TYPE_SRCH_BLOCKS,
  TYPE_SRCH_LOG,
  ZONE_LOG_MERGE_COMPLETE,
  ZONE_LOG_MERGE_REQUEST,
} from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import type { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import { SrchCompact, SrchFile } from "../../format/srch.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../../fs/device.ts";
import { quorumBlkno } from "../../format/quorum.ts";

export interface Field {
  readonly path: string;
  readonly off: number;
  readonly size: number;
}

/** A structure at a place on one of the devices. */
export interface Place {
  readonly dev: "meta" | "data";
  /** Byte offset and size of the block that carries the checksum. */
  readonly block: number;
  readonly blockSize: number;
  /** Byte offset of the structure in the block. */
  readonly off: number;
  readonly struct: string;
  /** Where it was found, for names. */
  readonly label: string;
  /** Bytes that are there: values may be shorter than their structure. */
  readonly len?: number;
}

export interface Mutation {
  readonly place: Place;
  readonly field: Field;
  readonly how: string;
  readonly name: string;
  apply(dev: Device): void;
}

const FORMAT = new URL("../../format/", import.meta.url);
const INTEGER = /^(u8|le16|le32|le64)(?:\[(\d+)\])?$/;
const BYTES: Readonly<Record<string, number>> = { u8: 1, le16: 2, le32: 4, le64: 8 };
/** Elements of arrays that are changed. */
const ELEMENTS = 2;

interface Line {
  off: number;
  type: string;
  name: string;
}

/** Structure name → lines of its layout table, and its size. */
function readLayouts(): Map<string, { lines: Line[]; size: number }> {
  const layouts = new Map<string, { lines: Line[]; size: number }>();
  for (const entry of Deno.readDirSync(FORMAT)) {
    const text = Deno.readTextFileSync(new URL(entry.name, FORMAT));
    const classes =
      /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\nexport class (\w+) extends View \{\n\s+static readonly SIZE = (\d+)/g;
    for (const [, doc, cls, size] of text.matchAll(classes)) {
      const lines: Line[] = [];
      for (const m of (doc as string).matchAll(/^ \*\s+(\d+) (\S+)\s+(\w+)$/gm)) {
        lines.push({ off: Number(m[1]), type: m[2] as string, name: m[3] as string });
      }
      layouts.set(snake(cls as string), { lines, size: Number(size) });
    }
  }
  const key = [["first", 0], ["second", 8], ["third", 16]].map(([name, off]) => ({
    off: off as number,
    type: "le64",
    name: name as string,
  }));
  layouts.set("key", {
    lines: [
      ...key,
      { off: 24, type: "u8", name: "fourth" },
      { off: 25, type: "u8", name: "zone" },
      { off: 26, type: "u8", name: "type" },
      { off: 27, type: "u8[5]", name: "pad" },
    ],
    size: 32,
  });
  layouts.set("btree_item", {
    lines: [
      { off: 0, type: "le16", name: "node_parent" },
      { off: 2, type: "le16", name: "node_left" },
      { off: 4, type: "le16", name: "node_right" },
      { off: 6, type: "u8", name: "node_height" },
      { off: 7, type: "u8", name: "node_pad" },
      { off: 8, type: "key", name: "key" },
      { off: 40, type: "le64", name: "seq" },
      { off: 48, type: "le16", name: "val_off" },
      { off: 50, type: "le16", name: "val_len" },
      { off: 52, type: "u8", name: "flags" },
      { off: 53, type: "u8[3]", name: "pad" },
    ],
    size: 56,
  });
  return layouts;
}

/** The field of a structure that holds the byte at `off`, as `fieldsOf` names it; null for none. */
export function fieldAt(struct: string, off: number): string | null {
  const layout = LAYOUTS.get(struct);
  if (layout === undefined) throw new Error(`no layout of ${struct}`);
  const line = layout.lines.findLast((l) => l.off <= off);
  if (line === undefined || off >= layout.size) return null;
  const { type, name } = line;
  if (type === "u8[]") return name;
  const [, element, count] = /^(\w+)(?:\[(\d+)\])?$/.exec(type) as unknown as [
    string,
    string,
    string?,
  ];
  const size = BYTES[element] ?? (LAYOUTS.get(element) as { size: number }).size;
  const index = Math.floor((off - line.off) / size);
  const inner = BYTES[element] === undefined
    ? fieldAt(element, off - line.off - index * size)
    : undefined;
  const whole = count === undefined ||
    element === "u8" && name !== "name_source" && name !== "name_flags";
  const path = whole ? name : `${name}[${index}]`;
  return inner === undefined || inner === null ? path : `${path}.${inner}`;
}

const snake = (cls: string): string => cls.replace(/(?!^)([A-Z])/g, "_$1").toLowerCase();

export const LAYOUTS = readLayouts();

/** The scalar fields of a structure, nested ones spelled out. */
export function fieldsOf(struct: string): Field[] {
  const layout = LAYOUTS.get(struct);
  if (layout === undefined) throw new Error(`no layout of ${struct}`);
  const fields: Field[] = [];
  for (const { off, type, name } of layout.lines) {
    if (type === "u8[]") {
      fields.push({ path: name, off, size: 1 });
      continue;
    }
    const plain = INTEGER.exec(type);
    if (plain !== null) {
      const size = BYTES[plain[1] as string] as number;
      const n = plain[2] === undefined ? 1 : Number(plain[2]);
      // Bytes of padding and names are one field.
      const whole = plain[1] === "u8" && n > 1 && name !== "name_source" && name !== "name_flags";
      for (
        let i = 0;
        i < (whole ? 1 : Math.min(n, name === "future" ? 1 : 16, ELEMENTS + 1));
        i++
      ) {
        fields.push({ path: n > 1 && !whole ? `${name}[${i}]` : name, off: off + i * size, size });
      }
      continue;
    }
    const [, inner, count] = /^(\w+)(?:\[(\d+)\])?$/.exec(type) as unknown as [
      string,
      string,
      string?,
    ];
    const n = count === undefined ? 1 : Math.min(Number(count), name === "events" ? 6 : ELEMENTS);
    const size = (LAYOUTS.get(inner) as { size: number }).size;
    for (let i = 0; i < n; i++) {
      const prefix = count === undefined ? name : `${name}[${i}]`;
      for (const f of fieldsOf(inner)) {
        fields.push({ path: `${prefix}.${f.path}`, off: off + i * size + f.off, size: f.size });
      }
    }
  }
  return fields;
}

const CHANGES: readonly [string, (bytes: Uint8Array) => void][] = [
  ["+1", (b) => {
    for (let i = 0; i < b.length && ++b[i]! % 256 === 0; i++);
  }],
  ["top bit", (b) => {
    b[b.length - 1]! ^= 0x80;
  }],
  ["ones", (b) => {
    b.fill(0xff);
  }],
  ["zero", (b) => {
    b.fill(0);
  }],
];

/** All mutations of a place; those that change nothing are left out. */
export function mutationsOf(place: Place, dev: Device): Mutation[] {
  const original = dev.allocBuffer(place.blockSize);
  dev.read(original, place.block);
  const out: Mutation[] = [];
  const seen = new Set<string>();
  for (const plain of fieldsOf(place.struct)) {
    const field = place.struct === "alloc_list_block" && plain.path.startsWith("blknos")
      ? { ...plain, off: plain.off + 8 * original[48]! + 2048 * original[49]! } // From the first valid one.
      : plain;
    if (place.len !== undefined && field.off + field.size > place.len) continue;
    const at = place.off + field.off;
    for (const [how, change] of CHANGES) {
      const bytes = original.slice(at, at + field.size);
      change(bytes);
      const id = `${field.path}:${bytes.join()}`;
      if (seen.has(id) || bytes.every((b, i) => b === original[at + i])) continue;
      seen.add(id);
      out.push({
        place,
        field,
        how,
        name: `${place.label} ${place.struct}.${field.path} ${how}`,
        apply(target) {
          const block = target.allocBuffer(place.blockSize);
          block.set(original);
          block.set(bytes, at);
          if (!(place.off === 0 && field.path === "hdr.crc")) sealBlock(block);
          target.write(block, place.block);
        },
      });
    }
  }
  return out;
}

/** Structure of an item's value by zone and type, of items that have one. */
export const VALUES: Readonly<Record<string, string>> = {
  "10.4": "quota_rule_val",
  "12.0": "xattr_totl_val",
  "16.4": "inode",
  "16.8": "xattr",
  "16.12": "dirent",
  "16.16": "dirent",
  "16.20": "dirent",
  "16.28": "data_extent_val",
  "24.0": "log_trees",
  "28.0": "mounted_client_btree_val",
  "32.4": "srch_file",
  "32.8": "srch_file",
  "32.12": "srch_compact",
  "32.16": "srch_compact",
  "44.0": "log_merge_status",
  // Under the type of the range's start.
  ...Object.fromEntries([0, 4, 8, 12, 16, 20, 24, 28].map((t) => [`48.${t}`, "log_merge_range"])),
  "52.0": "log_merge_request",
  "56.0": "log_merge_complete",
  "60.0": "log_merge_freeing",
};

/** Every structure of a volume, each kind where it occurs first and last in its tree. */
export function placesOf(meta: Device): Place[] {
  const raw = meta.allocBuffer(SM_SIZE);
  meta.read(raw, SUPER_BLKNO * SM_SIZE);
  const sb = SuperBlock.at(raw);
  const small = (dev: "meta" | "data", blkno: number, struct: string, label: string): Place => ({
    dev,
    block: blkno * SM_SIZE,
    blockSize: SM_SIZE,
    off: 0,
    struct,
    label,
  });
  const places: Place[] = [
    small("meta", SUPER_BLKNO, "super_block", "meta"),
    small("data", SUPER_BLKNO, "super_block", "data"),
    small("meta", quorumBlkno(0), "quorum_block", "slot 0"),
    small("meta", quorumBlkno(3), "quorum_block", "slot 3"),
  ];
  const finder = new Finder(meta, places);
  for (let i = 0; i < 2; i++) {
    finder.tree(sb.metaAlloc(i).root, `meta_alloc[${i}]`);
    finder.list(sb.serverMetaAvail(i).ref.blkno, `server_meta_avail[${i}]`);
    finder.list(sb.serverMetaFreed(i).ref.blkno, `server_meta_freed[${i}]`);
  }
  finder.tree(sb.dataAlloc.root, "data_alloc");
  finder.tree(sb.fsRoot, "fs_root");
  finder.tree(sb.mountedClients, "mounted_clients");
  finder.tree(sb.logMerge, "log_merge", (val, key) => {
    if (key.zone === ZONE_LOG_MERGE_REQUEST || key.zone === ZONE_LOG_MERGE_COMPLETE) {
      // Both have their lists first.
      finder.list(AllocListHead.at(val).ref.blkno, `merge ${key.zone} meta_avail`);
      finder.list(
        AllocListHead.at(val, AllocListHead.SIZE).ref.blkno,
        `merge ${key.zone} meta_freed`,
      );
    }
  });
  finder.tree(sb.srchRoot, "srch_root", (val, key) => {
    if (key.type === TYPE_SRCH_LOG || key.type === TYPE_SRCH_BLOCKS) {
      finder.srch(SrchFile.at(val), `file ${key}`);
      return;
    }
    const c = SrchCompact.at(val), deleting = (c.flags & SRCH_COMPACT_DELETE) !== 0;
    finder.list(c.metaAvail.ref.blkno, "compaction meta_avail");
    finder.list(c.metaFreed.ref.blkno, "compaction meta_freed");
    if (!deleting) finder.srch(c.out, "compaction output");
  });
  finder.tree(sb.logsRoot, "logs_root", (val) => {
    const lt = LogTrees.at(val);
    finder.tree(lt.itemRoot, "log tree");
    finder.list(lt.metaAvail.ref.blkno, "log meta_avail");
    finder.list(lt.metaFreed.ref.blkno, "log meta_freed");
    finder.tree(lt.dataAvail.root, "log data_avail");
    finder.tree(lt.dataFreed.root, "log data_freed");
    finder.large(lt.bloomRef.blkno, "bloom_block", "bloom");
    finder.srch(lt.srchFile, "log srch_file");
  });
  return places;
}

class Finder {
  readonly #seen = new Map<string, number>();

  constructor(private readonly dev: Device, private readonly places: Place[]) {}

  read(blkno: number): Uint8Array {
    const buf = this.dev.allocBuffer(LG_SIZE);
    this.dev.read(buf, blkno * LG_SIZE);
    return buf;
  }

  large(blkno: number, struct: string, label: string): void {
    if (blkno !== 0) this.#add(blkno, 0, struct, label);
  }

  #add(blkno: number, off: number, struct: string, label: string, len?: number): void {
    const place = {
      dev: "meta" as const,
      block: blkno * LG_SIZE,
      blockSize: LG_SIZE,
      off,
      struct,
      label,
    };
    this.places.push(len === undefined ? place : { ...place, len });
  }

  list(blkno: number, label: string): void {
    this.large(blkno, "alloc_list_block", label);
  }

  srch(file: SrchFile, label: string): void {
    const walk = (blkno: number, level: number): void => {
      this.large(blkno, level === 0 ? "srch_block" : "srch_parent", label);
      if (level > 0) {
        const v = new DataView(this.read(blkno).buffer);
        walk(Number(v.getBigUint64(32, true)), level - 1);
      }
    };
    if (file.height > 0) walk(file.ref.blkno, file.height - 1);
  }

  /** The first item of each kind, and the first two blocks of each level. */
  tree(root: BtreeRoot, label: string, visit?: (val: Uint8Array, key: Key) => void): void {
    const walk = (blkno: number): void => {
      const buf = this.read(blkno);
      const b = { buf, v: new DataView(buf.buffer, buf.byteOffset, buf.length) };
      const level = blockLevel(b);
      if (this.#first(`${label} level ${level}`, 1)) {
        this.large(blkno, "btree_block", `${label} level ${level}`);
      }
      for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) {
        const key = itemKey(b, i);
        if (level > 0) {
          if (this.#first(`${label} parent item`, 2)) {
            this.#add(blkno, i, "btree_item", `${label} parent`);
            this.#add(blkno, itemValOff(b, i), "block_ref", `${label} parent`);
          }
          walk(BlockRef.at(itemVal(b, i)).blkno);
          continue;
        }
        const kind = `${key.zone}.${key.type}`;
        const val = itemVal(b, i);
        if (this.#first(`${label} item ${kind}`, 1)) {
          this.#add(blkno, i, "btree_item", `${label} ${kind}`);
        }
        const struct = VALUES[kind];
        if (struct !== undefined && val.length > 0 && this.#first(`${label} value ${kind}`, 2)) {
          this.#add(blkno, itemValOff(b, i), struct, `${label} ${kind}`, val.length);
        }
        visit?.(val.slice(), key);
      }
    };
    if (root.height > 0) walk(root.ref.blkno);
  }

  #first(what: string, count: number): boolean {
    const n = this.#seen.get(what) ?? 0;
    this.#seen.set(what, n + 1);
    return n < count;
  }
}
