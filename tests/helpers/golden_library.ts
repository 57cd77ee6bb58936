/** What the library reads of a golden volume, compared with its manifest. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { toHex } from "../../format/bytes.ts";
import type { Timespec } from "../../format/block.ts";
import { openVolumeReader, type VolumeReader } from "../../mod.ts";
import { latin1, type Manifest, type ManifestFile } from "./manifest.ts";

const TYPES: Record<number, string> = {
  0o010000: "p",
  0o020000: "c",
  0o040000: "d",
  0o060000: "b",
  0o100000: "f",
  0o120000: "l",
  0o140000: "s",
};

const timeText = (t: Timespec): string => `${t.sec}.${String(t.nsec).padStart(9, "0")}`;

function describe(volume: VolumeReader, path: string, ino: number): ManifestFile {
  const inode = volume.inode(ino);
  const type = TYPES[inode.mode & 0o170000] ?? "?";
  return {
    path,
    type,
    mode: (inode.mode & 0o7777).toString(8),
    uid: inode.uid,
    gid: inode.gid,
    size: inode.sizeBig,
    nlink: inode.nlink,
    ino,
    blocks512: (inode.onlineBlocks + inode.offlineBlocks) * 8,
    mtime: timeText(inode.mtime),
    ctime: timeText(inode.ctime),
    link: type === "l" ? latin1(volume.readlink(ino)) : "",
  };
}

/** Adds everything below a directory, itself last. */
export function walkTree(
  volume: VolumeReader,
  path: string,
  ino: number,
  found: ManifestFile[],
): void {
  const file = describe(volume, path, ino);
  if (file.type === "d") {
    for (const e of volume.readdir(ino)) {
      walkTree(volume, `${path}/${latin1(e.name)}`, e.ino, found);
    }
  }
  found.push(file);
}

/** Order of comparing. */
export const byPath = (a: ManifestFile, b: ManifestFile) =>
  a.path < b.path ? -1 : a.path > b.path ? 1 : 0;

export function checkContents(
  volume: VolumeReader,
  manifest: Manifest,
  inos: Map<string, number>,
): void {
  for (const [path, sum] of manifest.sha256) {
    const ino = inos.get(path);
    assert.ok(ino !== undefined, `no file ${path}`);
    const hash = createHash("sha256");
    const size = volume.inode(ino).size;
    for (let off = 0; off < size; off += 2 ** 20) hash.update(volume.read(ino, off, 2 ** 20));
    assert.equal(hash.digest("hex"), sum, path);
  }
}

function checkXattrs(volume: VolumeReader, manifest: Manifest, inos: Map<string, number>): void {
  for (const [path, ino] of inos) {
    const expected = manifest.xattrs.get(path) ?? new Map<string, string>();
    const seen = new Map<string, string>();
    for (const { name, value } of volume.xattrs(ino)) {
      const text = latin1(name);
      if (text.startsWith("scoutfs.") && text.split(".").includes("hide")) continue;
      seen.set(text, toHex(value));
    }
    assert.deepEqual(seen, new Map([...expected].map(([k, v]) => [k, v])), path);
  }
}

function checkStat(volume: VolumeReader, manifest: Manifest, inos: Map<string, number>): void {
  for (const [path, fields] of manifest.stat) {
    const ino = inos.get(path);
    assert.ok(ino !== undefined, `no file ${path}`);
    const inode = volume.inode(ino);
    const seen: Record<string, string> = {
      meta_seq: String(inode.metaSeq),
      data_seq: String(inode.dataSeq),
      data_version: String(inode.dataVersion),
      online_blocks: String(inode.onlineBlocks),
      offline_blocks: String(inode.offlineBlocks),
      crtime: timeText(inode.crtime),
    };
    for (const [name, value] of Object.entries(seen)) {
      if (fields.has(name)) assert.equal(value, fields.get(name), `${path}: ${name}`);
    }
  }
}

/** Everything that the library gives equals the manifest. */
export function checkLibrary(images: { meta: string; data: string }, manifest: Manifest): void {
  const volume = openVolumeReader(images.meta, images.data);
  try {
    const files: ManifestFile[] = [];
    walkTree(volume, ".", 1, files);
    assert.deepEqual(files.sort(byPath), manifest.files.sort(byPath));
    const inos = new Map(files.map((f) => [f.path, f.ino]));
    checkContents(volume, manifest, inos);
    checkXattrs(volume, manifest, inos);
    checkStat(volume, manifest, inos);
    const index = (which: "meta_seq" | "data_seq") =>
      [...volume.walk(which)].map((e) => [e.seq, e.ino]);
    assert.deepEqual(index("meta_seq"), manifest.metaSeq);
    assert.deepEqual(index("data_seq"), manifest.dataSeq);
    const totals = [...volume.totals()].map((t) =>
      `${t.name.join(".")} = ${BigInt.asIntN(64, t.total)}, ${t.count}`
    );
    assert.deepEqual(totals, manifest.totals);
    assert.equal(volume.inodeCount, manifest.metaSeq.length);
  } finally {
    volume.close();
  }
}
