/** Damage of items, a case each: entries, inodes, indexes, totals, search. */

import {
  backrefKey,
  dataSeqKey,
  Dirent,
  direntKey,
  extentKey,
  Inode,
  inodeKey,
  metaSeqKey,
  orphanKey,
  readdirKey,
  xattrTotlKey,
} from "../../format/items.ts";
import { direntHash } from "../../format/hash.ts";
import assert from "node:assert/strict";
import { Key } from "../../format/key.ts";
import {
  TYPE_DATA_EXTENT,
  TYPE_LINK_BACKREF,
  TYPE_XATTR,
  ZONE_FS,
} from "../../format/constants.ts";
import { bytes, type Surgeon, type Volume } from "./repair_support.ts";

export interface Case {
  readonly name: string;
  readonly codes: readonly string[];
  /** Paths whose content, mode or attributes may change. */
  readonly touched?: readonly string[];
  damage(s: Surgeon, v: Volume, entry: (path: string) => StoredEntry): void;
  after?(now: ReadonlyMap<string, string>, v: Volume): void;
}

export interface StoredEntry {
  readonly dir: number;
  readonly ino: number;
  readonly pos: number;
  readonly name: Uint8Array;
  readonly dirent: Key;
  readonly readdir: Key;
  readonly backref: Key;
}

const inode = (s: Surgeon, ino: number): Inode => Inode.read(s.value(inodeKey(ino))!, 2);

/** The first item of a type of an inode. */
export function firstKey(s: Surgeon, ino: number, type: number): Key {
  for (const { root } of s.itemTrees()) {
    if (root.height === 0) continue;
    const at = s.firstFrom(root, Key.of(ZONE_FS, ino, type));
    if (at === null) continue;
    let key: Key | null = null;
    s.editBlock(at.blkno, ({ v }) => void (key = Key.read(v, at.offset + 8)));
    if (key !== null && (key as Key).type === type && (key as Key).first === ino) return key;
  }
  throw new Error(`inode ${ino} has no item of type ${type}`);
}

export const CASES: readonly Case[] = [
  {
    name: "an index item is missing",
    codes: ["index-missing"],
    damage: (s, v) => {
      const ino = v.inos.get("file3")!;
      s.removeItem(metaSeqKey(inode(s, ino).metaSeq, ino));
    },
  },
  {
    name: "an index item too many",
    codes: ["index-extra"],
    damage: (s, v) => s.insertItem(dataSeqKey(1, v.inos.get("file3")!)),
  },
  {
    name: "an orphan item of a file that has a name",
    codes: ["orphan-extra"],
    damage: (s, v) => s.insertItem(orphanKey(v.inos.get("file3")!)),
  },
  {
    name: "a wrong link count",
    codes: ["inode-nlink"],
    damage: (s, v) => s.editInode(v.inos.get("file0")!, (i) => i.nlink = 7),
  },
  {
    name: "a wrong link count of a directory, and wrong size",
    codes: ["inode-nlink", "inode-size"],
    damage: (s, v) =>
      s.editInode(v.inos.get("a")!, (i) => {
        i.nlink = 9;
        i.size = 1;
      }),
  },
  {
    name: "wrong block counts",
    codes: ["inode-blocks", "extents-missing"],
    damage: (s, v) =>
      s.editInode(v.inos.get("file3")!, (i) => {
        i.onlineBlocks -= 1;
        i.offlineBlocks = 1;
      }),
  },
  {
    name: "positions and ids that were given already",
    codes: ["dir-next-pos", "xattr-next-id"],
    damage: (s, v) => {
      s.editInode(v.inos.get("a")!, (i) => i.nextReaddirPos = 3);
      s.editInode(v.inos.get("file0")!, (i) => i.nextXattrId = 0);
    },
  },
  {
    name: "a missing dirent",
    codes: ["twin-without-entry"],
    damage: (s, _, entry) => void s.removeItem(entry("a/file1").dirent),
  },
  {
    name: "a missing readdir entry",
    codes: ["entry-without-twin"],
    damage: (s, _, entry) => void s.removeItem(entry("a/file1").readdir),
  },
  {
    name: "a missing backref",
    codes: ["entry-without-twin", "inode-nlink"],
    damage: (s, _, entry) => void s.removeItem(entry("a/file1").backref),
    after: (now) => assert.ok(![...now.keys()].some((path) => path.startsWith("/lost+found"))),
  },
  {
    name: "a missing backref of a directory",
    codes: ["entry-without-twin", "dir-parents"],
    damage: (s, _, entry) => void s.removeItem(entry("a/b").backref),
  },
  {
    name: "a readdir entry with another name",
    codes: ["entry-twins-differ"],
    damage: (s, _, entry) => {
      s.editItem(entry("a/file1").readdir, (val) => val.set(bytes("gile1"), Dirent.SIZE));
    },
  },
  {
    name: "a dirent that leads to another inode",
    codes: ["entry-twins-differ"],
    damage: (s, v, entry) => {
      s.editItem(entry("a/file1").dirent, (val) => Dirent.at(val).ino = v.inos.get("file3")!);
    },
  },
  // The sum of what both inodes say is wrong: whichever comes first, the other's backref must go.
  ...["file0", "a/b/file38"].map((other): Case => ({
    name: `a backref of ${other} where another inode's entry is`,
    codes: ["entry-twins-differ", "inode-nlink"],
    damage: (s, v, entry) => {
      const e = entry("a/file1"), ino = v.inos.get(other)!;
      const val = s.value(e.backref)!;
      Dirent.at(val).ino = ino;
      s.insertItem(backrefKey(ino, e.dir, e.pos), val);
    },
  })),
  {
    name: "an entry of the wrong type in all three items",
    codes: ["entry-type"],
    damage: (s, _, entry) => {
      const e = entry("a/file1");
      for (const key of [e.dirent, e.readdir, e.backref]) s.editItem(key, (val) => val[24] = 6);
    },
  },
  {
    name: "an entry that leads nowhere",
    codes: ["entry-without-twin"],
    touched: ["/a/dangling"],
    damage: (s, v) => {
      const dir = v.inos.get("a")!, pos = inode(s, dir).nextReaddirPos;
      const name = bytes("dangling"), hash = direntHash(name);
      const val = new Uint8Array(Dirent.SIZE + name.length), d = Dirent.at(val);
      d.ino = 999_999;
      d.hashHi = hash.hi;
      d.hashLo = hash.lo;
      d.pos = pos;
      d.type = 4;
      val.set(name, Dirent.SIZE);
      s.insertItem(direntKey(dir, hash, pos), val);
      s.insertItem(readdirKey(dir, pos), val);
      s.editInode(dir, (i) => {
        i.nextReaddirPos++;
        i.size += name.length;
      });
    },
    after: (now) => assert.ok(!now.has("/a/dangling")),
  },
  {
    name: "a file that lost all its names",
    codes: ["inode-nlink"],
    touched: ["/file3"],
    damage: (s, _, entry) => {
      const e = entry("file3");
      for (const key of [e.dirent, e.readdir, e.backref]) s.removeItem(key);
    },
    after: (now, v) => assert.ok(now.has(`/lost+found/#${v.inos.get("file3")}`)),
  },
  {
    name: "a directory that lost its name",
    codes: ["dir-parents"],
    touched: ["/a/b"],
    damage: (s, _, entry) => {
      const e = entry("a/b");
      for (const key of [e.dirent, e.readdir, e.backref]) s.removeItem(key);
    },
    after: (now, v) => assert.ok(now.has(`/lost+found/#${v.inos.get("a/b")}/file2`)),
  },
  {
    name: "a missing inode item",
    codes: ["inode-missing"],
    touched: ["/file3"],
    damage: (s, v) => void s.removeItem(inodeKey(v.inos.get("file3")!)),
    after: (now) => assert.match(now.get("/file3") ?? "", /^100600 /),
  },
  {
    name: "no root directory",
    codes: ["root-inode", "inode-missing"],
    touched: [""],
    damage: (s) => void s.removeItem(inodeKey(1)),
    after: (now) => assert.ok(now.has("/a/b/file2")),
  },
  {
    name: "impossible fields of an inode",
    codes: ["inode-field"],
    touched: ["/file3"],
    damage: (s, v) =>
      s.editInode(v.inos.get("file3")!, (i) => {
        i.mode = 0o170644;
        i.flags = 0xff0;
        i.v.setUint32(i.o + 104, 2_000_000_000, true);
      }),
    after: (now) => assert.match(now.get("/file3") ?? "", /^100644 /),
  },
  {
    name: "modes of no type",
    codes: ["inode-field", "extents-in-other", "entries-in-file"],
    damage: (s, v) => {
      for (const path of ["file3", "a", "a/file4"]) {
        s.editInode(v.inos.get(path)!, (i) => i.mode |= 0o170000);
      }
    },
  },
  {
    name: "modes of another type",
    codes: ["entry-type", "extents-in-other", "entries-in-file", "symlink"],
    damage: (s, v) => {
      for (const path of ["file3", "a", "a/file4"]) {
        s.editInode(v.inos.get(path)!, (i) => i.mode = i.mode & 0o7777 | 0o140000);
      }
      s.editInode(v.inos.get("a/sym")!, (i) => i.mode = i.mode & 0o7777 | 0o010000);
      s.editInode(v.inos.get("a/file1")!, (i) => i.mode = i.mode & 0o7777 | 0o120000);
    },
  },
  {
    name: "an entry whose items are filed under other positions",
    codes: ["entry-value"],
    damage: (s, _v, entry) => {
      const move = (old: Key, now: Key) => {
        const val = s.value(old) as Uint8Array;
        s.removeItem(old);
        s.insertItem(now, val);
      };
      const first = entry("file3"), other = entry("a/file4"), third = entry("a/file7");
      move(first.dirent, direntKey(first.dir, direntHash(first.name), 500));
      move(other.readdir, readdirKey(other.dir, 600));
      move(third.backref, backrefKey(third.ino, third.dir, 700));
    },
  },
  {
    name: "two entries at one position, of which the later one has the readdir item",
    codes: ["dir-pos-twice"],
    damage: (s, _v, entry) => {
      const found = [entry("a/file4"), entry("a/file7")].sort((x, y) => x.dirent.compare(y.dirent));
      const [moved, stays] = found as [StoredEntry, StoredEntry];
      const val = (s.value(moved.dirent) as Uint8Array).slice();
      Dirent.at(val).pos = stays.pos;
      for (const key of [moved.dirent, moved.readdir, moved.backref]) s.removeItem(key);
      s.insertItem(direntKey(moved.dir, direntHash(moved.name), stays.pos), val);
      s.insertItem(backrefKey(moved.ino, moved.dir, stays.pos), val);
    },
  },
  {
    name: "an attribute without its second part",
    codes: ["xattr"],
    touched: ["/a/file4"],
    damage: (s, v) => {
      const key = firstKey(s, v.inos.get("a/file4")!, TYPE_XATTR);
      s.removeItem(Key.of(key.zone, key.first, key.type, key.second, key.third, 1));
    },
  },
  {
    name: "attributes with tags that were lost",
    codes: ["totl", "srch-extra"],
    touched: ["/file0", "/a/b/hard"],
    damage: (s, v) => {
      for (let n = 0; n < 12; n++) {
        try {
          s.removeItem(firstKey(s, v.inos.get("file0")!, TYPE_XATTR));
        } catch {
          break;
        }
      }
    },
  },
  {
    name: "a wrong total",
    codes: ["totl"],
    damage: (s) => {
      let n = 0;
      for (let c = 0n; c < 2n; c++) {
        n += s.editItem(xattrTotlKey(1n, 2n, c), (val) => val[0]! ^= 64);
      }
      assert.ok(n > 0);
    },
  },
  {
    name: "an extent outside the device",
    codes: ["extent-outside"],
    touched: ["/a/file4"],
    damage: (s, v) => {
      const key = firstKey(s, v.inos.get("a/file4")!, TYPE_DATA_EXTENT);
      s.editItem(key, (val) => new DataView(val.buffer, val.byteOffset).setUint32(4, 5, true));
    },
  },
  {
    name: "extents of one file that overlap",
    codes: ["extent-file-overlap"],
    touched: ["/a/file4"],
    damage: (s, v) => {
      const ino = v.inos.get("a/file4")!;
      const key = firstKey(s, ino, TYPE_DATA_EXTENT);
      const end = key.second, val = new Uint8Array(16);
      val[8] = 1;
      s.insertItem(extentKey(ino, end + 3, 5), val);
    },
  },
  {
    name: "a wrong inode count",
    codes: ["inode-count"],
    damage: (s) => s.editSuper((sb) => sb.inodeCount += 5),
  },
  {
    name: "next_ino behind an inode",
    codes: ["inode-next-ino"],
    damage: (s) => s.editSuper((sb) => sb.nextIno = 1025),
  },
];

/** Finds the items of the entry that a path names. */
export function entryFinder(s: Surgeon, v: Volume): (path: string) => StoredEntry {
  return (path) => {
    const ino = v.inos.get(path)!;
    const parent = path.includes("/") ? v.inos.get(path.slice(0, path.lastIndexOf("/")))! : 1;
    const name = bytes(path.slice(path.lastIndexOf("/") + 1));
    const key = firstKey(s, ino, TYPE_LINK_BACKREF), pos = key.third;
    return {
      dir: parent,
      ino,
      pos,
      name,
      dirent: direntKey(parent, direntHash(name), pos),
      readdir: readdirKey(parent, pos),
      backref: backrefKey(ino, parent, pos),
    };
  };
}
