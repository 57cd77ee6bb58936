/**
 * A seeded workload and the plain model of what it did, state by state, so that what a crash left
 * can be judged: after every operation an attribute of the root tells its number, hence a recovered
 * volume says itself which state it claims to hold. This is also exact when mounts take turns: who
 * marks the root takes its lock away from the other, who must commit everything first.
 *
 * States are immutable: an operation replaces what it changes. File contents of a state are what
 * applications had written by then; on the device a page may already have the content of any later
 * state up to the crash, since overwriting happens in place.
 */

import { SM_SIZE } from "../../format/constants.ts";
import { ROOT_CALLER } from "../../fs/caller.ts";
import { setattr } from "../../fs/ops/attr.ts";
import { write } from "../../fs/ops/data.ts";
import { FALLOC_FL_KEEP_SIZE, fallocate } from "../../fs/ops/fallocate.ts";
import { create, link, rmdir, symlink, tmpfile, unlink } from "../../fs/ops/names.ts";
import { rename } from "../../fs/ops/rename.ts";
import { truncate } from "../../fs/ops/truncate.ts";
import { removeXattr, setXattr } from "../../fs/ops/xattr.ts";
import type { LocalFs } from "../helpers/local_fs.ts";
import type { SeededRandom } from "../helpers/sim_reactor.ts";

export const TICK = "user.tick";
const ROOT_INO = 1;
const MAX_FILE = 200_000;
const MAX_NODES = 60;

export type Kind = "dir" | "file" | "link";

export interface Node {
  readonly kind: Kind;
  readonly ino: number;
  readonly mode: number;
  readonly nlink: number;
  readonly entries: ReadonlyMap<string, number>;
  readonly xattrs: ReadonlyMap<string, string>;
  readonly target: string;
  readonly bytes: Uint8Array;
}

/** Nodes by inode number, those without names included while they are open. */
export type State = ReadonlyMap<number, Node>;

export const utf8 = (s: string): Uint8Array => new TextEncoder().encode(s);
const caller = { ...ROOT_CALLER, umask: 0 };

const NAMES = ["a", "b", "c", "d", "e", "ä", "x".repeat(255), "longer-name-of-an-entry"];
const XATTRS = [
  "user.short",
  "user.long",
  "trusted.t",
  "scoutfs.srch.s",
  "scoutfs.hide.srch.h",
  "scoutfs.totl.t.1.2.3",
  "scoutfs.indx.i.4.5",
];

/** Runs operations and remembers the state after each. */
export class Workload {
  /** State after operation i; 0: the beginning. */
  readonly states: State[];
  /** Files that are held open, by which mount: they may have no name any more. */
  readonly #held = new Map<number, LocalFs>();
  #now: Map<number, Node>;
  #nextId = 1;

  constructor(
    /** Where the next operation runs. */
    public mount: LocalFs,
    readonly random: SeededRandom,
  ) {
    const root: Node = {
      kind: "dir",
      ino: ROOT_INO,
      mode: 0o755,
      nlink: 2,
      entries: new Map(),
      xattrs: new Map(),
      target: "",
      bytes: new Uint8Array(0),
    };
    this.#now = new Map([[ROOT_INO, root]]);
    this.states = [new Map(this.#now)];
  }

  /** One operation and its mark. */
  async step(): Promise<void> {
    await this.#operate();
    this.states.push(new Map(this.#now));
    const tick = utf8(String(this.states.length - 1));
    await this.mount.run((op, fs) => setXattr(op, fs, ROOT_INO, utf8(TICK), tick, 0));
  }

  /** Lets go what a mount holds open, as the ends of its processes do. */
  release(mount: LocalFs): void {
    for (const [ino, holder] of this.#held) {
      if (holder !== mount) continue;
      mount.fs.refs.release(ino);
      if (this.#now.get(ino)!.nlink === 0) this.#now.delete(ino);
      this.#held.delete(ino);
    }
  }

  #pick<T>(list: readonly T[]): T | undefined {
    return list.length === 0 ? undefined : list[this.random.below(list.length)];
  }

  #nodes(kind: Kind, named = false): Node[] {
    return [...this.#now.values()].filter((n) => n.kind === kind && !(named && n.nlink === 0));
  }

  #change(ino: number, change: Partial<Node>): void {
    this.#now.set(ino, { ...this.#now.get(ino)!, ...change });
  }

  #enter(dir: Node, name: string, ino: number): void {
    const entries = new Map(this.#now.get(dir.ino)!.entries);
    entries.set(name, ino);
    this.#change(dir.ino, { entries });
  }

  #leave(dir: Node, name: string): void {
    const entries = new Map(this.#now.get(dir.ino)!.entries);
    entries.delete(name);
    this.#change(dir.ino, { entries });
  }

  #links(ino: number, by: number): void {
    this.#change(ino, { nlink: this.#now.get(ino)!.nlink + by });
  }

  /** Is `dir` `top` or below it? */
  #isBelow(dir: number, top: number): boolean {
    if (dir === top) return true;
    for (const child of this.#now.get(top)!.entries.values()) {
      if (this.#now.get(child)?.kind === "dir" && this.#isBelow(dir, child)) return true;
    }
    return false;
  }

  async #operate(): Promise<void> {
    const { random } = this;
    const dice = random.below(100);
    const full = this.#now.size >= MAX_NODES;
    if (dice < 10) return full ? await this.#remove() : await this.#create("file");
    if (dice < 15) return full ? await this.#remove() : await this.#create("dir");
    if (dice < 18) return full ? await this.#remove() : await this.#create("link");
    if (dice < 20) return await this.#tmpfile();
    if (dice < 24) return await this.#link();
    if (dice < 32) return await this.#remove();
    if (dice < 40) return await this.#rename();
    if (dice < 43) return await this.#chmod();
    if (dice < 55) return await this.#xattr();
    if (dice < 60) return await this.#truncate();
    if (dice < 64) return await this.#fallocate();
    return await this.#write();
  }

  async #create(kind: Kind): Promise<void> {
    const { random, mount } = this;
    const dir = this.#pick(this.#nodes("dir"))!;
    const name = this.#pick(NAMES)!;
    if (dir.entries.has(name)) return;
    const mode = kind === "link" ? 0o777 : random.below(0o1000);
    const target = kind === "link" ? "t".repeat(1 + random.below(2000)) : "";
    const type = kind === "dir" ? 0o040000 : 0o100000;
    const ino = await mount.run(
      (op, fs) =>
        kind === "link"
          ? symlink(op, fs, dir.ino, utf8(name), utf8(target))
          : create(op, fs, dir.ino, utf8(name), type | mode),
      caller,
    );
    mount.fs.refs.forget(ino, 1);
    this.#now.set(ino, {
      kind,
      ino,
      mode,
      nlink: kind === "dir" ? 2 : 1,
      entries: new Map(),
      xattrs: new Map(),
      target,
      bytes: new Uint8Array(0),
    });
    this.#enter(dir, name, ino);
    if (kind === "dir") this.#links(dir.ino, 1);
  }

  async #tmpfile(): Promise<void> {
    const { mount } = this;
    if (this.#held.size > 3) return;
    const ino = await mount.run((op, fs) => {
      return tmpfile(op, fs, ROOT_INO, 0o100600);
    }, caller);
    this.#hold(ino);
    mount.fs.refs.forget(ino, 1);
    const empty = { entries: new Map(), xattrs: new Map(), target: "", bytes: new Uint8Array(0) };
    this.#now.set(ino, { kind: "file", ino, mode: 0o600, nlink: 0, ...empty });
  }

  #hold(ino: number): void {
    this.mount.fs.refs.open(ino);
    this.#held.set(ino, this.mount);
  }

  async #link(): Promise<void> {
    const { mount } = this;
    const node = this.#pick(this.#nodes("file"));
    const dir = this.#pick(this.#nodes("dir"))!;
    const name = this.#pick(NAMES)!;
    if (node === undefined || dir.entries.has(name)) return;
    await mount.run((op, fs) => link(op, fs, node.ino, dir.ino, utf8(name)));
    mount.fs.refs.forget(node.ino, 1);
    this.#enter(dir, name, node.ino);
    this.#links(node.ino, 1);
  }

  async #remove(): Promise<void> {
    const { mount, random } = this;
    const dir = this.#pick(this.#nodes("dir"))!;
    const name = this.#pick([...dir.entries.keys()]);
    if (name === undefined) return;
    const node = this.#now.get(dir.entries.get(name)!)!;
    if (node.entries.size > 0) return;
    const isDir = node.kind === "dir";
    if (node.nlink === 1 && node.kind === "file" && this.#held.size < 4 && random.oneIn(3)) {
      if (!this.#held.has(node.ino)) this.#hold(node.ino);
    }
    await mount.run((op, fs) => (isDir ? rmdir : unlink)(op, fs, dir.ino, utf8(name)));
    this.#leave(dir, name);
    if (isDir) this.#links(dir.ino, -1);
    this.#unlinked(node.ino, isDir ? 2 : 1);
  }

  #unlinked(ino: number, by: number): void {
    this.#links(ino, -by);
    if (this.#now.get(ino)!.nlink === 0 && !this.#held.has(ino)) this.#now.delete(ino);
  }

  async #rename(): Promise<void> {
    const { mount } = this;
    const from = this.#pick(this.#nodes("dir"))!;
    const name = this.#pick([...from.entries.keys()]);
    const to = this.#pick(this.#nodes("dir"))!;
    const newName = this.#pick(NAMES)!;
    if (name === undefined) return;
    const ino = from.entries.get(name)!;
    const isDir = this.#now.get(ino)!.kind === "dir";
    const overIno = to.entries.get(newName);
    if (overIno === ino || (isDir && this.#isBelow(to.ino, ino))) return;
    const over = overIno === undefined ? undefined : this.#now.get(overIno)!;
    if (over !== undefined) {
      if ((over.kind === "dir") !== isDir || over.entries.size > 0) return;
      if (this.#isBelow(from.ino, over.ino)) return;
    }
    await mount.run((op, fs) => rename(op, fs, from.ino, utf8(name), to.ino, utf8(newName), 0));
    this.#leave(from, name);
    if (isDir) this.#links(from.ino, -1);
    this.#enter(to, newName, ino);
    if (isDir) this.#links(to.ino, 1);
    if (over !== undefined) {
      if (isDir) this.#links(to.ino, -1);
      this.#unlinked(over.ino, isDir ? 2 : 1);
    }
  }

  async #chmod(): Promise<void> {
    const node = this.#pick([...this.#nodes("dir"), ...this.#nodes("file")])!;
    const mode = this.random.below(0o1000);
    await this.mount.run((op, fs) => setattr(op, fs, node.ino, { mode }));
    this.#change(node.ino, { mode });
  }

  async #xattr(): Promise<void> {
    const { mount, random } = this;
    const node = this.#pick([...this.#nodes("file"), ...this.#nodes("dir", true)])!;
    const name = this.#pick(XATTRS)!;
    const xattrs = new Map(node.xattrs);
    if (xattrs.has(name) && random.oneIn(2)) {
      await mount.run((op, fs) => removeXattr(op, fs, node.ino, utf8(name)));
      xattrs.delete(name);
    } else {
      const value = name.includes("indx")
        ? ""
        : name.includes("totl")
        ? String(random.below(1000))
        : "v".repeat(random.below(name === "user.long" ? 9000 : 100));
      await mount.run((op, fs) => setXattr(op, fs, node.ino, utf8(name), utf8(value), 0));
      xattrs.set(name, value);
    }
    this.#change(node.ino, { xattrs });
  }

  async #truncate(): Promise<void> {
    const node = this.#pick(this.#nodes("file"));
    if (node === undefined) return;
    const size = this.#place();
    await truncate(this.mount.fs, node.ino, size, caller, this.#nextId++);
    this.#change(node.ino, { bytes: resized(node.bytes, size) });
  }

  async #fallocate(): Promise<void> {
    const { random } = this;
    const node = this.#pick(this.#nodes("file"));
    if (node === undefined) return;
    const offset = this.#place();
    const length = 1 + random.below(60_000);
    const keep = random.oneIn(2);
    const mode = keep ? FALLOC_FL_KEEP_SIZE : 0;
    await fallocate(this.mount.fs, { ino: node.ino, mode, offset, length, caller });
    if (!keep && offset + length > node.bytes.length) {
      this.#change(node.ino, { bytes: resized(node.bytes, offset + length) });
    }
  }

  #place(): number {
    const at = this.random.below(MAX_FILE);
    return this.random.oneIn(2) ? at : at - at % SM_SIZE;
  }

  async #write(): Promise<void> {
    const { random } = this;
    const node = this.#pick(this.#nodes("file"));
    if (node === undefined) return await this.#create("file");
    const length = 1 + random.below([300, 5000, 20_000, 150_000][random.below(4)]!);
    const append = random.oneIn(3) && node.bytes.length < MAX_FILE;
    const offset = append ? node.bytes.length : this.#place();
    const data = new Uint8Array(length);
    const seed = random.u32();
    for (let i = 0; i < length; i++) data[i] = (Math.imul(i ^ seed, 0x9e3779b1) >>> 24) | 1;
    await write(this.mount.fs, {
      ino: node.ino,
      offset,
      data,
      append,
      direct: random.oneIn(5),
      sync: false,
      killSuidgid: false,
      pageWrite: false,
      caller,
      id: this.#nextId++,
    });
    const bytes = resized(node.bytes, Math.max(node.bytes.length, offset + length));
    bytes.set(data, offset);
    this.#change(node.ino, { bytes });
  }
}

/** A copy of another length. */
function resized(bytes: Uint8Array, size: number): Uint8Array {
  const next = new Uint8Array(size);
  next.set(bytes.subarray(0, size));
  return next;
}

/** The names below the root with everything but the files' sizes and contents, as text. */
export function describe(state: State): string[] {
  const lines: string[] = [];
  const visit = (path: string, node: Node): void => {
    const { kind, ino, mode, nlink, target } = node;
    const xattrs = [...node.xattrs].sort().map(([k, v]) => `${k}=${v.length}:${v.slice(0, 4)}`);
    lines.push([path, kind, ino, mode.toString(8), nlink, target.length, ...xattrs].join(" "));
    for (const [name, child] of [...node.entries].sort()) {
      visit(`${path}/${name.slice(0, 30)}`, state.get(child)!);
    }
  };
  visit("", state.get(ROOT_INO)!);
  return lines;
}
