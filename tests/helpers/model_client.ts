/**
 * A volume in memory with a server store, and clients that do to it what mounts do: allocate and
 * free metadata and data, write log items, commit. They speak to the store by its requests only,
 * and keep no items but what they need to delete again.
 */

import { bytesEqual } from "../../format/bytes.ts";
import { InetAddr } from "../../format/block.ts";
import { ITEM_FLAG_DELETION, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { DataExtentVal, extentKey, inodeKey, inodeLockRange } from "../../format/items.ts";
import type { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import {
  CMD_ALLOC_INODES,
  CMD_COMMIT_LOG_TREES,
  CMD_GET_LOG_TREES,
  NetAllocInodes,
  NetU64,
} from "../../format/wire.ts";
import { BlockCache, BlockWriter } from "../../fs/block_cache.ts";
import { setBloom } from "../../fs/bloom.ts";
import type { TreeItem } from "../../fs/btree.ts";
import { insertList } from "../../fs/btree_log.ts";
import type { Device } from "../../fs/device.ts";
import { insertExtent, takeFront } from "../../fs/extent_alloc.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { type AllocTree, ListAllocator } from "../../fs/meta_alloc.ts";
import { makeFilesystem } from "../../fs/mkfs.ts";
import { appendSrch } from "../../fs/srch_file.ts";
import { assert } from "../../fs/errors.ts";
import { openServerStore, type ServerStore, type StoreOptions } from "../../net/store.ts";
import { SeededRandom } from "./sim_reactor.ts";

const FSID = 0x0123_4567_89ab_cdefn;
const NOTHING = new Uint8Array(0);

/** A fresh volume; only its metadata device is kept. */
export function newVolume(
  metaBytes: number,
  dataBytes: number,
  options: { zoneBlocks?: number } = {},
): MemDevice {
  const meta = new MemDevice(metaBytes, { name: "meta" });
  const data = new MemDevice(dataBytes, { name: "data" });
  makeFilesystem(meta, data, {
    fsid: FSID,
    uuid: new Uint8Array(16).fill(7),
    time: { sec: 1_700_000_000, nsec: 0 },
    fmtVers: 2,
    metaBytes,
    dataBytes,
    slots: [{ nr: 0, addr: 0x7f000001, port: 12345 }],
    ...(options.zoneBlocks === undefined ? {} : { dataAllocZoneBlocks: options.zoneBlocks }),
  });
  return meta;
}

/** A server that takes over the volume. */
export function openStore(
  dev: Device,
  seed = 1,
  options: Partial<StoreOptions> = {},
): ServerStore {
  const buf = dev.allocBuffer(SM_SIZE);
  dev.read(buf, SUPER_BLKNO * SM_SIZE);
  assert(blockCrcOk(buf), "the super block is torn");
  return openServerStore(dev, buf, { random: new SeededRandom(seed), ...options });
}

/** Some address. */
export function address(): InetAddr {
  const addr = InetAddr.alloc();
  addr.setIpv4(0x7f000001, 40000);
  return addr;
}

interface ModelFile {
  ino: number;
  extents: { iblock: number; blkno: number; len: number }[];
}

export class ModelClient {
  /** What is in the open transaction or committed. */
  readonly files: ModelFile[] = [];
  lt = LogTrees.alloc();
  private readonly cache: BlockCache;
  private readonly writer: BlockWriter;
  private alloc: ListAllocator;
  private pending = new Map<string, TreeItem>();
  private pendingBytes = 0;
  private nextIno = 0;
  private lastIno = 0;

  constructor(
    readonly rid: bigint,
    readonly dev: Device,
    public store: ServerStore,
    private readonly random: SeededRandom,
    fsid = FSID,
  ) {
    this.cache = new BlockCache(dev, fsid, { random });
    this.writer = new BlockWriter(this.cache);
    this.alloc = this.allocator();
  }

  async mount(): Promise<void> {
    await this.store.insertMountedClient(this.rid, address(), true);
    await this.get();
  }

  /** Opens a transaction. */
  async get(): Promise<void> {
    const answer = await this.store.request(CMD_GET_LOG_TREES, this.rid, NOTHING);
    this.opened(answer);
  }

  private opened(answer: Uint8Array): void {
    this.lt = LogTrees.at(answer.slice());
    this.alloc = this.allocator();
  }

  private allocator(): ListAllocator {
    return new ListAllocator(
      { cache: this.cache, writer: this.writer },
      this.lt.metaAvail,
      this.lt.metaFreed,
      { deviceBlocks: Math.floor(this.dev.size / 65536), paranoid: true },
    );
  }

  private get tree(): AllocTree {
    return { cache: this.cache, writer: this.writer, alloc: this.alloc };
  }

  /** Whether the server asked allocating operations to stop, or the lists are used up. */
  get mustStop(): boolean {
    return this.lt.metaAvail.isLow || this.short;
  }

  /** Whether a commit is due (03 §11.4). */
  get short(): boolean {
    return this.alloc.low(16 + 2 * Math.ceil(this.pendingBytes / 4096));
  }

  private put(key: Key, val: Uint8Array, flags = 0): void {
    this.pendingBytes += 64 + val.length;
    this.pending.set(key.toString(), { key, seq: this.lt.getTransSeq, flags, val });
  }

  /** A new inode whose item has `bytes` bytes; numbers come in batches. */
  async create(bytes = 168): Promise<ModelFile> {
    if (this.nextIno === this.lastIno) {
      const ask = NetU64.alloc();
      ask.value = 4096;
      const got = NetAllocInodes.at(
        await this.store.request(CMD_ALLOC_INODES, this.rid, ask.bytes),
      );
      this.nextIno = got.ino;
      this.lastIno = got.ino + got.nr;
    }
    const file: ModelFile = { ino: this.nextIno++, extents: [] };
    this.put(inodeKey(file.ino), new Uint8Array(bytes).fill(file.ino & 255));
    this.lt.inodeCountDelta++;
    this.files.push(file);
    return file;
  }

  /** Appends blocks to a file; returns how many there were. */
  write(file: ModelFile, blocks: number): number {
    let done = 0;
    while (done < blocks && !this.short) {
      const e = takeFront(this.tree, this.lt.dataAvail, blocks - done);
      if (e === null) break;
      const last = file.extents.at(-1);
      const iblock = last === undefined ? 0 : last.iblock + last.len;
      file.extents.push({ iblock, blkno: e.start, len: e.len });
      const val = DataExtentVal.alloc();
      val.blkno = e.start;
      this.put(extentKey(file.ino, iblock + e.len - 1, e.len), val.bytes);
      done += e.len;
    }
    return done;
  }

  /** Deletes a file: its data becomes freed, its items deletion items. */
  remove(file: ModelFile): void {
    for (const { iblock, blkno, len } of file.extents) {
      insertExtent(this.tree, this.lt.dataFreed, blkno, len);
      this.put(extentKey(file.ino, iblock + len - 1, len), NOTHING, ITEM_FLAG_DELETION);
    }
    this.put(inodeKey(file.ino), NOTHING, ITEM_FLAG_DELETION);
    this.lt.inodeCountDelta--;
    this.files.splice(this.files.lastIndexOf(file), 1);
  }

  /** A search log entry. */
  srch(n: number): void {
    appendSrch(
      this.tree,
      this.lt.srchFile,
      BigInt(n) * 0x9e3779b97f4a7c15n & 0xffffffffffffffffn,
      n + 1,
      n,
    );
  }

  /** Writes everything dirty: items, blocks, flush (03 §11.6 steps 3–6). */
  writeBack(): void {
    const items = [...this.pending.values()].sort((a, b) => a.key.compare(b.key));
    this.pending.clear();
    this.pendingBytes = 0;
    if (items.length > 0) {
      for (const { key } of items) {
        setBloom(this.tree, this.lt.bloomRef, inodeLockRange(key.first).start);
      }
      insertList(this.tree, this.lt.itemRoot, items);
      this.lt.maxItemSeq = this.lt.getTransSeq;
    }
    this.alloc.finish();
    this.writer.write();
    this.dev.flush();
  }

  /** The whole commit; with `together` both requests share one server commit. */
  async commit(together = this.random.oneIn(2)): Promise<void> {
    this.writeBack();
    const value = this.lt.bytes.slice();
    const committed = this.store.request(CMD_COMMIT_LOG_TREES, this.rid, value);
    if (together) {
      const got = this.store.request(CMD_GET_LOG_TREES, this.rid, NOTHING);
      const [, answer] = await Promise.all([committed, got]);
      this.opened(answer);
      return;
    }
    await committed;
    await this.get();
  }

  /** What a client does when a server died: the same requests again, to the next one. */
  async resend(store: ServerStore): Promise<void> {
    this.store = store;
    const value = this.lt.bytes.slice();
    await store.request(CMD_COMMIT_LOG_TREES, this.rid, value);
    const first = await store.request(CMD_GET_LOG_TREES, this.rid, NOTHING);
    const again = await store.request(CMD_GET_LOG_TREES, this.rid, NOTHING);
    assert(bytesEqual(first, again), "a resent GET_LOG_TREES was answered differently");
    this.opened(again);
  }

  /** A transaction of random work. */
  async work(): Promise<void> {
    const { random } = this;
    for (let n = 1 + random.below(12); n > 0 && !this.mustStop; n--) {
      const file = await this.create();
      if (random.oneIn(2)) this.write(file, 1 + random.below(300));
    }
    for (let n = random.below(6); n > 0 && this.files.length > 0 && !this.short; n--) {
      this.remove(this.files[random.below(this.files.length)]!);
    }
    if (random.oneIn(3)) { for (let n = random.below(50); n > 0 && !this.short; n--) this.srch(n); }
  }
}
