/**
 * The serving loop against the real kernel, with one file in memory: framing, parked answers,
 * interrupts, errors, unmounting.
 */
import assert from "node:assert/strict";
import { EINTR, ENOENT } from "../../format/errno.ts";
import { Inode } from "../../format/items.ts";
import { sleep } from "../../fs/env.ts";
import { FsError } from "../../fs/errors.ts";
import * as abi from "../../fs/fuse/abi.ts";
import { answerInit } from "../../fs/fuse/init.ts";
import { checkMountable, kernelMount } from "../../fs/fuse/mount.ts";
import type { FuseRequest } from "../../fs/fuse/request.ts";
import { FuseSession, type Handler, NO_ANSWER } from "../../fs/fuse/session.ts";
import { SystemReactor } from "../../fs/sys/reactor.ts";

const FILE = 77;
const decoder = new TextDecoder();

interface Bed {
  dir: string;
  reactor: SystemReactor;
  session: FuseSession;
  logged: string[];
  handlers: (Handler | undefined)[];
  interrupts: FuseRequest[];
  sh: (script: string) => Promise<{ code: number; out: string; err: string }>;
}

function inodeOf(ino: number, content: Uint8Array): Inode {
  const inode = Inode.alloc();
  inode.mode = ino === 1 ? 0o040755 : 0o100644;
  inode.nlink = ino === 1 ? 2 : 1;
  inode.size = ino === 1 ? 0 : content.length;
  inode.mtime.set(-5, 123456789);
  return inode;
}

/** Runs `body` with a mount that holds the file `hello`. */
async function withMount(content: Uint8Array, body: (bed: Bed) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  const reactor = new SystemReactor({ maxSleepMs: 2 });
  const logged: string[] = [];
  const interrupts: FuseRequest[] = [];
  const handlers: (Handler | undefined)[] = [];
  handlers[abi.INIT] = (req) => answerInit(req, true);
  handlers[abi.GETATTR] = (req) =>
    abi.putAttrOut(req.out.view, 0, req.ino, inodeOf(req.ino, content));
  handlers[abi.LOOKUP] = (req) => {
    if (decoder.decode(req.name(0)) !== "hello") throw new FsError(ENOENT);
    return abi.putEntry(req.out.view, 0, FILE, inodeOf(FILE, content));
  };
  // Only waits of direct I/O can be interrupted.
  handlers[abi.OPEN] = (req) => abi.putOpen(req.out.view, 0, 0, abi.FOPEN_DIRECT_IO);
  handlers[abi.READ] = (req) => {
    const offset = req.u64(8), size = req.u32(16);
    const part = content.subarray(offset, offset + size);
    const buffer = session.takeData(req, part.length);
    buffer.set(part);
    req.parts.add(buffer.subarray(0, part.length));
    return 0;
  };
  handlers[abi.WRITE] = (req) => {
    const size = req.u32(16);
    const data = req.window(abi.WRITE_IN, size);
    assert.equal(data.byteOffset % 4096, 0, "a payload is page aligned");
    content.set(data, req.u64(8));
    req.out.view.setUint32(0, size, true);
    return abi.WRITE_OUT;
  };
  handlers[abi.RELEASE] = () => 0;
  handlers[abi.FORGET] = () => NO_ANSWER;
  handlers[abi.BATCH_FORGET] = () => NO_ANSWER;
  const mount = kernelMount({
    mountpoint: dir,
    source: "test,with\\oddities",
    blockDevice: false,
    readOnly: false,
  });
  let ended = "";
  const session: FuseSession = new FuseSession(reactor, mount.fd, {
    handlers,
    onInterrupt: (req) => interrupts.push(req),
    log: (line) => logged.push(line),
    onEnd: (why) => ended = why,
  });
  const sh = async (script: string) => {
    const r = await new Deno.Command("sh", { args: ["-c", script], cwd: "/" }).output();
    return { code: r.code, out: decoder.decode(r.stdout), err: decoder.decode(r.stderr) };
  };
  try {
    await reactor.runUntil((async () => {
      try {
        await body({ dir, reactor, session, logged, handlers, interrupts, sh });
      } finally {
        assert.ok(await mount.unmount(true));
        while (ended === "") await sleep(reactor, 1);
      }
    })());
    assert.equal(ended, "unmounted");
    assert.equal(session.parkedCount, 0);
  } finally {
    mount.destroy();
    reactor.dispose();
    await Deno.remove(dir);
  }
}

const supported = (() => {
  try {
    checkMountable("/");
    return true;
  } catch (e) {
    // "/" is busy as a mount point: that much works. Anything else says why not.
    return e instanceof FsError && e.message.includes("mounted there already");
  }
})();
const test = (name: string, fn: () => Promise<void>) =>
  Deno.test({ name: supported ? name : `${name} (needs FUSE and root)`, ignore: !supported, fn });

test("files are looked up, read and written through the kernel", async () => {
  const content = crypto.getRandomValues(new Uint8Array(65536));
  const original = content.slice();
  await withMount(content, async ({ dir, sh, logged }) => {
    const sum = await sh(`cat ${dir}/hello | cksum; cksum < /dev/null`);
    assert.equal(sum.code, 0, sum.err);
    const stat = await sh(`stat -c '%i %s %a %Y %y %h' ${dir}/hello`);
    assert.match(stat.out, /^77 65536 644 -5 .*55\.123456789/);
    assert.equal((await sh(`cat ${dir}/absent`)).code, 1);
    await sh(`head -c 8192 /dev/zero | dd of=${dir}/hello bs=4096 seek=2 conv=notrunc`);
    assert.ok(content.subarray(8192, 16384).every((b) => b === 0));
    assert.deepEqual(content.subarray(0, 8192), original.subarray(0, 8192));
    assert.deepEqual(logged, []);
    assert.match(Deno.readTextFileSync("/proc/mounts"), /fuse\.scoutfs/);
  });
});

test("a parked request is answered later, others meanwhile", async () => {
  await withMount(new Uint8Array(10).fill(65), async ({ dir, reactor, handlers, session, sh }) => {
    const read = handlers[abi.READ];
    handlers[abi.READ] = async (req) => {
      const args = [req.u64(8), req.u32(16)];
      await sleep(reactor, 30);
      assert.equal(session.parkedCount, 1);
      assert.throws(() => req.u64(8), "a parked request gave its input back");
      const buffer = session.takeData(req, 10);
      buffer.fill(66);
      req.parts.add(buffer.subarray(args[0] as number, 10));
      return 0;
    };
    const slow = sh(`cat ${dir}/hello`);
    await sleep(reactor, 5);
    assert.equal((await sh(`stat -c %s ${dir}/hello`)).out, "10\n");
    assert.equal((await slow).out, "B".repeat(10));
    assert.ok(read);
  });
});

test("an interrupt names the parked request", async () => {
  await withMount(new Uint8Array(10), async ({ dir, handlers, interrupts, reactor }) => {
    let asked = () => {};
    const parked = new Promise<void>((resolve) => asked = resolve);
    handlers[abi.READ] = (_req) =>
      new Promise((_, reject) => {
        asked();
        const look = () => {
          if (interrupts.length > 0) reject(new FsError(EINTR));
          else reactor.setTimer(1, look);
        };
        look();
      });
    const reader = new Deno.Command("dd", {
      args: [`if=${dir}/hello`, "iflag=direct", "of=/dev/null"],
      stderr: "null",
    }).spawn();
    await parked;
    reader.kill("SIGINT");
    assert.equal((await reader.status).success, false);
    assert.equal(interrupts.length, 1);
    assert.equal(interrupts[0]?.opcode, abi.READ);
  });
});

test("a handler's defect is EIO and a log line, and the mount goes on", async () => {
  await withMount(new Uint8Array(10), async ({ dir, handlers, logged, sh }) => {
    const open = handlers[abi.OPEN];
    handlers[abi.OPEN] = () => {
      throw new TypeError("not expected");
    };
    assert.match((await sh(`cat ${dir}/hello`)).err, /Input\/output error/);
    assert.match(logged[0] ?? "", /defect in request 14 on inode 77.*not expected/);
    handlers[abi.OPEN] = open;
    assert.equal((await sh(`cat ${dir}/hello`)).code, 0);
    assert.match((await sh(`mkdir ${dir}/x`)).err, /Function not implemented/);
  });
});
