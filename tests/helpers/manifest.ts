/**
 * What the reference saw in a golden volume, as its manifest tells. Names and values are strings of
 * one character a byte (latin1), so that names that are no UTF-8 survive.
 */

import { goldenFile, type GoldenName } from "./golden.ts";

export interface ManifestFile {
  path: string;
  type: string;
  mode: string;
  uid: number;
  gid: number;
  size: bigint;
  nlink: number;
  ino: number;
  blocks512: number;
  /** `SEC.NSEC`, nine digits of nanoseconds. */
  mtime: string;
  ctime: string;
  link: string;
}

export interface Manifest {
  files: ManifestFile[];
  /** Path to sha256 in hex. */
  sha256: Map<string, string>;
  /** Path to (xattr name to value in hex), of names that listxattr shows. */
  xattrs: Map<string, Map<string, string>>;
  /** Path to the fields of `stat` and `get-attr-x`. */
  stat: Map<string, Map<string, string>>;
  /** (seq, ino) in order. */
  metaSeq: [number, number][];
  dataSeq: [number, number][];
  /** Lines `A.B.C = TOTAL, COUNT`. */
  totals: string[];
  /** The lines of any section by its title's beginning. */
  section(title: string): string[];
}

export function latin1(bytes: Uint8Array): string {
  let s = "";
  for (const b of bytes) s += String.fromCharCode(b);
  return s;
}

export function fromLatin1(s: string): Uint8Array {
  return Uint8Array.from(s, (c) => c.charCodeAt(0));
}

export function readManifest(name: GoldenName): Manifest {
  return parseManifest(latin1(goldenFile(`${name}.manifest.txt`)), name);
}

/** A manifest's text, each section after its line `== title`; `name` is for messages. */
export function parseManifest(text: string, name: string): Manifest {
  const sections = new Map<string, string[]>();
  let lines: string[] = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("== ")) sections.set(line.slice(3), lines = []);
    else lines.push(line);
  }
  const section = (title: string): string[] => {
    const found = [...sections].find(([key]) => key.startsWith(title));
    if (found === undefined) throw new Error(`${name}: no manifest section '${title}'`);
    return found[1].filter((line) => line !== "");
  };
  return {
    files: parseFiles(section("find")),
    sha256: new Map(section("sha256").map(parseSum)),
    xattrs: parseXattrs(section("xattrs")),
    stat: parseStat(section("scoutfs stat")),
    metaSeq: parseWalk(section("walk-inodes meta_seq")),
    dataSeq: parseWalk(section("walk-inodes data_seq")),
    totals: section("read-xattr-totals"),
    section,
  };
}

/** A manifest that is a list of files without titles, and its other lines. */
export function readFileList(name: GoldenName): { files: ManifestFile[]; rest: string[] } {
  const lines = latin1(goldenFile(`${name}.manifest.txt`)).split("\n").filter((l) => l !== "");
  return {
    files: parseFiles(lines.filter((line) => FILE.test(line))),
    rest: lines.filter((line) => !FILE.test(line)),
  };
}

const FILE =
  /^([\s\S]*)\|([a-z])\|(\d+)\|(\d+)\|(\d+)\|(\d+)\|(\d+)\|(\d+)\|(\d+)\|(-?\d+\.\d+)\|(-?\d+\.\d+)\|(.*)$/;

/** Lines of `find`, names with newlines in them included. */
export function parseFiles(lines: string[]): ManifestFile[] {
  const files: ManifestFile[] = [];
  let pending = "";
  for (const line of lines) {
    const m = FILE.exec(pending + line);
    if (m === null) {
      // A name with a newline in it.
      pending += `${line}\n`;
      continue;
    }
    pending = "";
    files.push({
      path: m[1]!,
      type: m[2]!,
      mode: m[3]!,
      uid: Number(m[4]),
      gid: Number(m[5]),
      size: BigInt(m[6]!),
      nlink: Number(m[7]),
      ino: Number(m[8]),
      blocks512: Number(m[9]),
      mtime: m[10]!.slice(0, -1),
      ctime: m[11]!.slice(0, -1),
      link: m[12]!,
    });
  }
  return files;
}

/** sha256sum puts a backslash before lines whose names it escaped. */
export function parseSum(line: string): [string, string] {
  const escaped = line.startsWith("\\");
  const text = escaped ? line.slice(1) : line;
  const path = text.slice(66);
  return [
    escaped ? path.replaceAll("\\n", "\n").replaceAll("\\\\", "\\") : path,
    text.slice(0, 64),
  ];
}

/** getfattr writes bytes that are not printable as `\ooo`. */
const unescapeOctal = (s: string): string =>
  s.replace(/\\([0-7]{3})/g, (_, o) => String.fromCharCode(parseInt(o, 8)));

/** What getfattr -d says. */
export function parseXattrs(lines: string[]): Map<string, Map<string, string>> {
  const all = new Map<string, Map<string, string>>();
  let current = new Map<string, string>();
  for (const line of lines) {
    if (line.startsWith("# file: ")) {
      const path = unescapeOctal(line.slice(8));
      all.set(path === "." ? "." : `./${path}`, current = new Map());
      continue;
    }
    const eq = line.lastIndexOf("=0x");
    current.set(unescapeOctal(line.slice(0, eq)), line.slice(eq + 3));
  }
  return all;
}

function parseStat(lines: string[]): Map<string, Map<string, string>> {
  const all = new Map<string, Map<string, string>>();
  let current = new Map<string, string>();
  for (const line of lines) {
    if (line.startsWith("-- ")) {
      all.set(line.slice(3), current = new Map());
      continue;
    }
    for (const field of line.split(";")) {
      const m = /^(\w+:?) (.*)$/.exec(field);
      if (m !== null) current.set(m[1]!, m[2]!);
    }
  }
  return all;
}

/** What walk-inodes says. */
export function parseWalk(lines: string[]): [number, number][] {
  return lines.filter((line) => !line.startsWith("#")).map((line) => {
    const [, major, , ino] = line.trim().split(/\s+/);
    return [Number(major), Number(ino)];
  });
}
