/**
 * The mounted filesystem of one node: its devices, its connection to the server, and the engine
 * between them. Operations (fs/ops) are functions over it; nothing else is global.
 *
 * Order of a mount: the connection is greeted, `start` reads the root inode (so a server exists and
 * the trees can be read) and opens the first transaction; `stop` commits and leaves the connection
 * to say farewell; `abort` ends everything without writing.
 */

import { LG_SIZE, ROOT_INO, SM_SIZE } from "../format/constants.ts";
import { ENOLINK } from "../format/errno.ts";
import type { SuperBlock } from "../format/super.ts";
import { LOCK_READ } from "../format/wire.ts";
import { BlockCache } from "./block_cache.ts";
import { type CallerMemory, noCallerMemory } from "./caller_memory.ts";
import { type Credentials, plainCredentials } from "./caller.ts";
import { Claims } from "./claims.ts";
import { DataCache } from "./data_cache.ts";
import type { Device, ReadAhead } from "./device.ts";
import { DirtyData } from "./dirty_data.ts";
import type { Random, Timers } from "./env.ts";
import { AssertionError, CorruptError, errnoError, type FsError } from "./errors.ts";
import { findInode } from "./inode.ts";
import { Inos } from "./inos.ts";
import { ItemCache } from "./item_cache.ts";
import type { ServerLink } from "./link.ts";
import { LockClient } from "./lock_client.ts";
import { OpRunner, type ParanoidOptions } from "./op.ts";
import { Orphans } from "./ops/orphan.ts";
import { Quota } from "./ops/quota.ts";
import { DataWaiters } from "./ops/wait.ts";
import { DEFAULT_ENGINE_LIMITS, type EngineLimits, type MountOptions } from "./options.ts";
import { ReadMemos } from "./read_memos.ts";
import { InodeRefs } from "./refs.ts";
import { Roots } from "./roots.ts";
import { Scratch } from "./scratch.ts";
import { Trans } from "./trans.ts";

export type { ServerLink } from "./link.ts";
export type { MountOptions } from "./options.ts";

/** Different I/O errors that are logged. */
const MAX_IO_ERRORS = 1000;
/** What the reference's server keeps back for one client (05 §9.10). */
const REFERENCE_RESERVED_BLOCKS = 16370 + 18311;

/** What a mount consists of. */
export interface FsParts {
  readonly meta: Device;
  readonly data: Device;
  /** Reads of the data device that go ahead of the readers, where that is possible. */
  readonly readAhead?: ReadAhead;
  /** The metadata device's super as checked at mount. */
  readonly superBlock: SuperBlock;
  /** Random identity of this mount. */
  readonly rid: bigint;
  readonly link: ServerLink;
  readonly clock: Timers;
  readonly random: Random;
  readonly options: MountOptions;
  readonly limits?: EngineLimits;
  readonly log?: (line: string) => void;
  readonly paranoid?: ParanoidOptions | null;
}

/** What the mount's front (the kernel session) is told; set before `start`. */
export interface FsHooks {
  /** See LockHooks. */
  onInvalidateInodes(firstIno: number, lastIno: number, mode: number): void | Promise<void>;
  /** The quota rules were lost. */
  onInvalidateQuota(): void;
  /**
   * A defect left memory inconsistent, or the structures that every commit needs are damaged:
   * nothing more may be written. `abort` was called.
   */
  onDefect(e: AssertionError | FsError): void;
}

export class Fs {
  readonly meta: Device;
  readonly data: Device;
  readonly superBlock: SuperBlock;
  readonly fsid: bigint;
  /** 1 or 2. */
  readonly fmtVers: number;
  /** Blocks of 4 KiB of the data device that files may have. */
  readonly dataBlocks: number;
  readonly rid: bigint;
  readonly link: ServerLink;
  readonly clock: Timers;
  readonly random: Random;
  readonly options: MountOptions;
  readonly limits: EngineLimits;
  readonly log: (line: string) => void;

  readonly cache: BlockCache;
  readonly locks: LockClient;
  readonly roots: Roots;
  readonly items: ItemCache;
  readonly trans: Trans;
  readonly inos: Inos;
  readonly runner: OpRunner;
  readonly claims = new Claims();
  readonly waiters = new DataWaiters();
  readonly dirty: DirtyData;
  readonly clean: DataCache;
  readonly readMemos = new ReadMemos();
  readonly refs = new InodeRefs();
  readonly scratch = new Scratch();
  readonly orphans: Orphans;
  readonly quota: Quota;

  /** Set by the mount: how processes are judged and their memory reached. */
  credentials: Credentials = plainCredentials;
  callerMemory: CallerMemory = noCallerMemory;
  /** Metadata blocks that the server keeps back, for STATFS_MORE (05 §9.10); the mount knows better. */
  reservedMetaBlocks: () => number = () =>
    Math.min(REFERENCE_RESERVED_BLOCKS, Math.floor(this.superBlock.totalMetaBlocks / 8));
  hooks: FsHooks = {
    onInvalidateInodes: () => {},
    onInvalidateQuota: () => {},
    onDefect: () => {},
  };
  /** Messages of I/O errors that the log has. */
  readonly #ioErrors = new Set<string>();
  /** Reports of corruption by source. */
  readonly #corruptions = new Map<string, number>();

  constructor(parts: FsParts) {
    const { meta, data, link } = parts;
    this.meta = meta;
    this.data = data;
    this.superBlock = parts.superBlock;
    this.fsid = parts.superBlock.hdr.fsid;
    this.fmtVers = parts.superBlock.fmtVers;
    this.dataBlocks = Math.min(
      parts.superBlock.totalDataBlocks,
      Math.floor(data.size / SM_SIZE),
    );
    this.rid = parts.rid;
    this.link = link;
    this.clock = parts.clock;
    this.random = parts.random;
    this.options = parts.options;
    this.limits = parts.limits ?? { ...DEFAULT_ENGINE_LIMITS };
    this.log = parts.log ?? (() => {});

    this.cache = new BlockCache(meta, this.fsid, {
      limitBytes: this.limits.blockCacheBytes,
      random: parts.random,
    });
    this.locks = new LockClient(link, {
      openSeq: () => this.trans.seq,
      makeDurable: () => this.trans.makeClean(),
      dropItems: (lock) => this.items.dropItems(lock),
      onInvalidateQuota: () => {
        this.quota.drop();
        this.hooks.onInvalidateQuota();
      },
      onInvalidateInodes: (first, last, mode) => {
        if (mode !== LOCK_READ) this.waiters.wakeRange(first, last);
        return this.hooks.onInvalidateInodes(first, last, mode);
      },
    }, this.options);
    this.roots = new Roots(link, this.locks);
    this.items = new ItemCache(this.cache, this.roots, this.limits);
    this.trans = new Trans({
      link,
      cache: this.cache,
      meta,
      data,
      metaBlocks: Math.min(parts.superBlock.totalMetaBlocks, Math.floor(meta.size / LG_SIZE)),
      dataBlocks: this.dataBlocks,
      clock: parts.clock,
      items: this.items,
      roots: this.roots,
      limits: this.limits,
      log: this.log,
      onDefect: (e) => this.#defect(e),
    });
    this.inos = new Inos(link, this.options);
    this.runner = new OpRunner(this.locks, this.trans, () => this.items.trim(), {
      paranoid: parts.paranoid ?? null,
      onDefect: (e) => this.#defect(e),
      onIoError: (e) => this.reportIoError(e),
    });
    this.clean = new DataCache(data, parts.readAhead ?? null, this.limits.dataCacheBytes);
    this.dirty = new DirtyData(data, {
      onChange: (blkno, len) => this.clean.forget(blkno, len),
    });
    this.trans.beforeCommit(this.dirty);
    this.orphans = new Orphans(this);
    this.quota = new Quota(this);
    this.trans.onNoSpace(() => this.orphans.makeSpace());
  }

  /** The connection is greeted: reads the root inode and opens the first transaction. */
  async start(): Promise<void> {
    await this.runner.run((op) => {
      const root = findInode(op, this, ROOT_INO, LOCK_READ);
      if (root === null) throw new CorruptError("the volume has no root inode");
      if (!root.isDir) throw new CorruptError("the root inode is no directory");
    });
    await this.trans.open();
    this.orphans.start();
  }

  /** Unmount, after the last operation: what is left is committed; then comes the farewell. */
  async stop(): Promise<void> {
    await this.orphans.stop();
    this.locks.fail(errnoError(ENOLINK));
    await this.trans.close();
    this.locks.stop();
  }

  #defect(e: AssertionError | FsError): void {
    this.log(`${e instanceof AssertionError ? "defect" : "the mount cannot go on"}: ${e.message}`);
    this.abort();
    this.hooks.onDefect(e);
  }

  /** Forced unmount: nothing is written any more; whatever waits fails with ENOLINK. */
  abort(): void {
    this.trans.abort();
    this.locks.fail(errnoError(ENOLINK));
    this.waiters.close(ENOLINK);
  }

  /** What made a request fail with EIO: one line for each, as long as there are not too many. */
  reportIoError(e: FsError): void {
    if (e instanceof CorruptError && e.reported) return;
    if (this.#ioErrors.size >= MAX_IO_ERRORS || this.#ioErrors.has(e.message)) return;
    this.#ioErrors.add(e.message);
    this.log(`I/O error: ${e.message}`);
    if (this.#ioErrors.size === MAX_IO_ERRORS) this.log("further I/O errors are not logged");
  }

  /** Contradictions found in stored structures (02 §23): counted, logged once per source. */
  reportCorruption(source: string, details: string): void {
    const seen = this.#corruptions.get(source) ?? 0;
    this.#corruptions.set(source, seen + 1);
    if (seen === 0) this.log(`corruption, ${source}: ${details}`);
  }

  /** Reports so far, by source. */
  get corruptions(): ReadonlyMap<string, number> {
    return this.#corruptions;
  }
}
