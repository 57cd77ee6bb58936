/**
 * Random sequences of operations against a plain model of a POSIX namespace, on one mount and on
 * two that pull each other's locks, with commits, remounts and crashes in between; at the end of
 * each run the committed items satisfy every invariant of 02 §24. Whatever an operation keeps of the
 * item cache beyond its run shows nonsense.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import {
  EEXIST,
  EINVAL,
  EISDIR,
  ENODATA,
  ENOENT,
  ENOTDIR,
  ENOTEMPTY,
  EPERM,
} from "../../format/errno.ts";
import { errnoOf, FsError } from "../../fs/errors.ts";
import { getattr, setattr } from "../../fs/ops/attr.ts";
import { create, link, lookup, readlink, rmdir, symlink, unlink } from "../../fs/ops/names.ts";
import { readdir } from "../../fs/ops/readdir.ts";
import { rename } from "../../fs/ops/rename.ts";
import { getXattr, listXattr, removeXattr, setXattr } from "../../fs/ops/xattr.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { assertSound, LocalFs } from "../helpers/local_fs.ts";
import { movingAtCreation, SpoilingRandom, spoilWindows } from "../helpers/spoiled_windows.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);
const text = (u: Uint8Array): string => new TextDecoder().decode(u);

interface Node {
  kind: "dir" | "file" | "link";
  ino: number;
  mode: number;
  nlink: number;
  parent: Node | null;
  /** In order of creation. */
  entries: Map<string, Node>;
  target: string;
  xattrs: Map<string, string>;
}

/** The model throws errno numbers. */
class Model {
  readonly root = this.node("dir", 1, 0o755);

  node(kind: Node["kind"], ino: number, mode: number): Node {
    const nlink = kind === "dir" ? 2 : 1;
    return {
      kind,
      ino,
      mode,
      nlink,
      parent: null,
      entries: new Map(),
      target: "",
      xattrs: new Map(),
    };
  }

  /** Every directory, the root first. */
  dirs(): Node[] {
    const all = [this.root];
    for (let i = 0; i < all.length; i++) {
      for (const n of all[i]!.entries.values()) if (n.kind === "dir") all.push(n);
    }
    return all;
  }

  create(dir: Node, name: string, node: Node): void {
    if (dir.entries.has(name)) throw EEXIST;
    dir.entries.set(name, node);
    if (node.kind === "dir") {
      dir.nlink++;
      node.parent = dir;
    }
  }

  link(node: Node, dir: Node, name: string): void {
    if (node.kind === "dir") throw EPERM;
    if (dir.entries.has(name)) throw EEXIST;
    dir.entries.set(name, node);
    node.nlink++;
  }

  remove(dir: Node, name: string, directory: boolean): void {
    const node = dir.entries.get(name);
    if (node === undefined) throw ENOENT;
    if ((node.kind === "dir") !== directory) throw directory ? ENOTDIR : EISDIR;
    if (node.entries.size > 0) throw ENOTEMPTY;
    dir.entries.delete(name);
    this.#drop(dir, node);
  }

  #drop(dir: Node, node: Node): void {
    node.nlink--;
    if (node.kind === "dir") {
      node.nlink--;
      dir.nlink--;
    }
  }

  rename(od: Node, name: string, nd: Node, newName: string): void {
    const node = od.entries.get(name);
    if (node === undefined) throw ENOENT;
    const over = nd.entries.get(newName);
    if (over === node) return;
    for (const [from, to] of [[nd, node], [od, over]] as const) {
      if (od === nd) break;
      for (let d: Node | null = from; d !== null; d = d.parent) if (d === to) throw EINVAL;
    }
    if (over !== undefined) {
      if ((node.kind === "dir") !== (over.kind === "dir")) {
        throw node.kind === "dir" ? ENOTDIR : EISDIR;
      }
      if (over.entries.size > 0) throw ENOTEMPTY;
      nd.entries.delete(newName);
      this.#drop(nd, over);
    }
    od.entries.delete(name);
    nd.entries.set(newName, node);
    if (node.kind === "dir") {
      od.nlink--;
      nd.nlink++;
      node.parent = nd;
    }
  }
}

const NAMES = ["a", "b", "c", "long-name-of-an-entry", "ä"];
const XATTRS = [
  "user.x",
  "trusted.y",
  "scoutfs.srch.z",
  "scoutfs.totl.t.1.2.3",
  "scoutfs.indx.i.4.5",
];

const step = fc.record({
  what: fc.constantFrom(
    "create",
    "create",
    "mkdir",
    "mkdir",
    "symlink",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "rename",
    "rename",
    "chmod",
    "setxattr",
    "setxattr",
    "removexattr",
    "sync",
    "commit",
    "remount",
  ),
  mount: fc.nat(1),
  dir: fc.nat(5),
  dir2: fc.nat(5),
  name: fc.constantFrom(...NAMES),
  name2: fc.constantFrom(...NAMES),
  n: fc.nat(0o777),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Runs both sides; they must agree on the error. */
async function both(model: () => void, real: () => Promise<void>): Promise<void> {
  let expected = 0;
  try {
    model();
  } catch (e) {
    if (typeof e !== "number") throw e;
    expected = e;
  }
  let got = 0;
  try {
    await real();
  } catch (e) {
    if (!(e instanceof FsError)) throw e;
    got = errnoOf(e);
  }
  assert.equal(got, expected);
}

class Run {
  readonly model = new Model();
  readonly mounts: LocalFs[] = [];

  constructor(readonly cluster: LocalCluster, readonly seed: number) {}

  async mount(i: number): Promise<void> {
    const suspendPerMille = 30;
    const random = new SpoilingRandom(this.seed + i, suspendPerMille);
    const m = await LocalFs.mount(this.cluster, {
      paranoid: { random, suspendPerMille },
      limits: { itemCacheBytes: 64 << 10 },
    });
    random.fs = m.fs;
    this.mounts[i] = m;
  }

  async step(s: Step): Promise<void> {
    const { model } = this;
    const at = s.mount % this.mounts.length;
    const m = this.mounts[at]!;
    const dirs = model.dirs();
    const dir = dirs[s.dir % dirs.length]!;
    const dir2 = dirs[s.dir2 % dirs.length]!;
    const node = dir.entries.get(s.name);
    const added = async (made: Node, run: () => Promise<number>): Promise<void> => {
      await both(
        () => model.create(dir, s.name, made),
        async () => {
          made.ino = await run();
          m.fs.refs.forget(made.ino, 1);
        },
      );
    };
    switch (s.what) {
      case "create":
        return await added(
          model.node("file", 0, s.n),
          () => m.run((op, fs) => create(op, fs, dir.ino, b(s.name), 0o100000 | s.n)),
        );
      case "mkdir":
        return await added(
          model.node("dir", 0, s.n),
          () => m.run((op, fs) => create(op, fs, dir.ino, b(s.name), 0o040000 | s.n)),
        );
      case "symlink": {
        const made = model.node("link", 0, 0o777);
        made.target = "t".repeat(1 + s.n * 3);
        return await added(
          made,
          () => m.run((op, fs) => symlink(op, fs, dir.ino, b(s.name), b(made.target))),
        );
      }
      case "link":
        if (node === undefined) return;
        return await both(
          () => model.link(node, dir2, s.name2),
          async () => {
            await m.run((op, fs) => link(op, fs, node.ino, dir2.ino, b(s.name2)));
            m.fs.refs.forget(node.ino, 1);
          },
        );
      case "unlink":
      case "rmdir": {
        const remove = s.what === "rmdir" ? rmdir : unlink;
        return await both(
          () => model.remove(dir, s.name, s.what === "rmdir"),
          () => m.run((op, fs) => remove(op, fs, dir.ino, b(s.name))),
        );
      }
      case "rename":
        return await both(
          () => model.rename(dir, s.name, dir2, s.name2),
          () => m.run((op, fs) => rename(op, fs, dir.ino, b(s.name), dir2.ino, b(s.name2), 0)),
        );
      case "chmod":
        if (node === undefined || node.kind === "link") return;
        node.mode = s.n;
        return await m.run((op, fs) => setattr(op, fs, node.ino, { mode: s.n }));
      case "setxattr": {
        if (node === undefined) return;
        const name = XATTRS[s.n % XATTRS.length]!;
        const value = name.includes("indx")
          ? ""
          : `${s.n}`.repeat(name.startsWith("user") ? 600 : 1);
        node.xattrs.set(name, value);
        return await m.run((op, fs) => setXattr(op, fs, node.ino, b(name), b(value), 0));
      }
      case "removexattr": {
        if (node === undefined) return;
        const name = XATTRS[s.n % XATTRS.length]!;
        return await both(
          () => {
            if (!node.xattrs.delete(name)) throw ENODATA;
          },
          () => m.run((op, fs) => removeXattr(op, fs, node.ino, b(name))),
        );
      }
      case "sync":
        return await m.sync();
      case "commit":
        return await m.fs.trans.commit();
      case "remount":
        await m.unmount();
        return await this.mount(at);
    }
  }

  /** Everything that can be seen through mount `m` is what the model has. */
  async compare(m: LocalFs): Promise<void> {
    for (const dir of this.model.dirs()) {
      const names: string[] = [];
      await m.run((op, fs) => {
        names.length = 0;
        readdir(op, fs, dir.ino, 2, (ino, _pos, _type, from, off, length) => {
          const name = text(from.subarray(off, off + length));
          assert.equal(ino, dir.entries.get(name)?.ino);
          names.push(name);
          return true;
        });
      });
      assert.deepEqual(names, [...dir.entries.keys()]);
      for (const [name, node] of dir.entries) {
        assert.equal(await m.run((op, fs) => lookup(op, fs, dir.ino, b(name))), node.ino);
        m.fs.refs.forget(node.ino, 1);
        const [mode, nlink] = await m.run((op, fs) => {
          const i = getattr(op, fs, node.ino);
          return [i.mode & 0o777, i.nlink];
        });
        assert.deepEqual([mode, nlink], [node.mode, node.nlink]);
        if (node.kind === "link") {
          assert.equal(text(await m.run((op, fs) => readlink(op, fs, node.ino))), node.target);
        }
        const listed = text(await m.run((op, fs) => listXattr(op, fs, node.ino)));
        assert.deepEqual(listed.split("\0").slice(0, -1).sort(), [...node.xattrs.keys()].sort());
        for (const [x, value] of node.xattrs) {
          assert.equal(text(await m.run((op, fs) => getXattr(op, fs, node.ino, b(x)))), value);
        }
      }
    }
  }
}

async function play(steps: readonly Step[], mounts: number, seed: number): Promise<void> {
  const cluster = await LocalCluster.make({ seed });
  const run = new Run(cluster, seed);
  for (let i = 0; i < mounts; i++) await run.mount(i);
  for (const s of steps) {
    await run.step(s);
    for (const m of run.mounts) spoilWindows(m.fs);
  }
  for (const m of run.mounts) await run.compare(m);
  for (const m of run.mounts) await m.fs.orphans.drain();
  for (const m of run.mounts) await m.sync();
  assertSound(cluster);
  // What was synced survives the death of every mount.
  for (const m of run.mounts) await m.crash();
  assertSound(cluster);
  const last = await LocalFs.mount(cluster);
  await run.compare(last);
  await last.unmount();
  assertSound(cluster);
}

Deno.test("namespace model: one mount", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 20, maxLength: 120 }),
      fc.integer({ min: 1 }),
      (steps, seed) => play(steps, 1, seed),
    ),
    { numRuns: 12, endOnFailure: true },
  );
});

Deno.test("namespace model: two mounts", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 20, maxLength: 100 }),
      fc.integer({ min: 1 }),
      (steps, seed) => play(steps, 2, seed),
    ),
    { numRuns: 10, endOnFailure: true },
  );
});

Deno.test("namespace model: one mount, values move at every creation", async () => {
  await movingAtCreation(() =>
    fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 20, maxLength: 120 }),
        fc.integer({ min: 1 }),
        (steps, seed) => play(steps, 1, seed),
      ),
      { numRuns: 8, endOnFailure: true },
    )
  );
});
