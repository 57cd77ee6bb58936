/**
 * `scoutfs mkfs`: options, checks and messages around fs/mkfs.ts (05 §12.1, 01 §17.1). Beyond the
 * reference: `--size` and its companions make image files that do not exist yet, and without `-Q`
 * the filesystem gets slot 0 on this host's loopback.
 */

import { ipv4Text } from "../format/block.ts";
import { FMT_VERS_MAX, FMT_VERS_MIN, LG_SIZE, SM_SIZE } from "../format/constants.ts";
import { EBUSY, EEXIST, EINVAL, errnoNumber, strerror } from "../format/errno.ts";
import { errnoError, FsError } from "../fs/errors.ts";
import { makeFilesystem, type QuorumSlotSetting, slotAddress, slotConflict } from "../fs/mkfs.ts";
import { findSignature } from "../fs/signatures.ts";
import { type BlockDevice, openDevice } from "../fs/sys/device.ts";
import { formatUuid } from "../fs/volume.ts";
import { type CommandSpec, UsageError } from "./command.ts";
import { printError, printLine } from "./output.ts";
import { parseQuorumSlot, parseSize, parseU64 } from "./parse.ts";
import { formatSize } from "./sizes.ts";

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;
/** Below this a device needs `-A`: the reference's policy. */
const MIN_DEVICE_BYTES = 64 * GIB;
/** Of a metadata image made with `--size`: a sixteenth of the data, at least this. */
const MIN_META_IMAGE_BYTES = 256 * MIB;
const META_IMAGE_SHARE = 16;

/** Ports of the default slot: below the range that systems give to outgoing connections. */
const DEFAULT_PORTS = { first: 20000, count: 12000 };
const LOOPBACK = 0x7f000001;

export const command: CommandSpec = {
  setup(c) {
    c.argument("[meta-device]", "metadata device or image file")
      .argument("[data-device]", "data device or image file")
      .option(
        "-Q, --quorum-slot <NR,ADDR,PORT>",
        "a quorum slot: number 0-14, IPv4 address and port; repeatable (default: slot 0 on " +
          "127.0.0.1 with a free port)",
        collect,
      )
      .option("-m, --max-meta-size <SIZE>", "use at most this much of the metadata device")
      .option("-d, --max-data-size <SIZE>", "use at most this much of the data device")
      .option(
        "-z, --data-alloc-zone-blocks <BLOCKS>",
        "size of data allocation zones in 4 KiB blocks",
      )
      .option("-f, --force", "overwrite whatever the devices hold")
      .option("-A, --allow-small-size", "allow devices below 64 GiB")
      .option("-V, --format-version <N>", "format version 1 or 2 (default 2)")
      .option(
        "--size <SIZE>",
        "make both image files: SIZE of data, a sixteenth of it (at least 256M) of metadata",
      )
      .option("--meta-size <SIZE>", "make the metadata image file with this size")
      .option("--data-size <SIZE>", "make the data image file with this size")
      .addHelpText(
        "after",
        "\nSIZE is a number with an optional K, M, G, T or P. Image files are sparse and must not " +
          "exist yet unless -f is given.",
      )
      .action(async (meta, data, options) => {
        const request = readOptions(meta, data, options);
        await mkfs(request);
      });
  },
};

const collect = (value: string, previous: string[] | undefined): string[] => [
  ...previous ?? [],
  value,
];

interface Options {
  quorumSlot?: string[];
  maxMetaSize?: string;
  maxDataSize?: string;
  dataAllocZoneBlocks?: string;
  force?: true;
  allowSmallSize?: true;
  formatVersion?: string;
  size?: string;
  metaSize?: string;
  dataSize?: string;
}

interface Request {
  metaPath: string;
  dataPath: string;
  slots: QuorumSlotSetting[];
  /** Bytes, 0 without a limit. */
  maxMeta: number;
  maxData: number;
  /** Bytes of image files to make, undefined for devices that exist. */
  newMeta: number | undefined;
  newData: number | undefined;
  zoneBlocks: number | undefined;
  force: boolean;
  allowSmall: boolean;
  fmtVers: number;
}

function readOptions(
  metaPath: string | undefined,
  dataPath: string | undefined,
  options: Options,
): Request {
  const slots: QuorumSlotSetting[] = [];
  for (const text of options.quorumSlot ?? []) {
    const slot = parseSlot(text);
    if (slots.some((s) => s.nr === slot.nr)) {
      throw new UsageError(`Quorum slot ${slot.nr} already specified before slot '${text}'`);
    }
    slots.push(slot);
  }
  const fmtVers = options.formatVersion === undefined
    ? FMT_VERS_MAX
    : Number(parseU64(options.formatVersion));
  if (fmtVers < FMT_VERS_MIN || fmtVers > FMT_VERS_MAX) {
    throw new UsageError(
      `format-version ${fmtVers} is outside supported range of ${FMT_VERS_MIN}-${FMT_VERS_MAX}`,
    );
  }
  let zoneBlocks: number | undefined;
  if (options.dataAllocZoneBlocks !== undefined) {
    zoneBlocks = asBytes(parseU64(options.dataAllocZoneBlocks));
    if (zoneBlocks === 0) throw new UsageError("must provide non-zero data-alloc-zone-blocks");
  }
  const image = (own: string | undefined, share: (bytes: number) => number, unit: number) => {
    const text = own ?? options.size;
    if (text === undefined) return undefined;
    const bytes = asBytes(parseSize(text));
    if (bytes === 0) throw new UsageError("the size of a new image file must not be 0");
    const wanted = own === undefined ? share(bytes) : bytes;
    return Math.ceil(wanted / unit) * unit;
  };
  const request = {
    slots,
    fmtVers,
    zoneBlocks,
    maxMeta: sizeLimit("Meta", options.maxMetaSize, LG_SIZE),
    maxData: sizeLimit("Data", options.maxDataSize, SM_SIZE),
    newMeta: image(
      options.metaSize,
      (data) => Math.max(MIN_META_IMAGE_BYTES, data / META_IMAGE_SHARE),
      LG_SIZE,
    ),
    newData: image(options.dataSize, (data) => data, SM_SIZE),
    force: options.force === true,
    allowSmall: options.allowSmallSize === true,
  };
  if (metaPath === undefined) throw new UsageError("no metadata device argument given");
  if (dataPath === undefined) throw new UsageError("no data device argument given");
  const conflict = slotConflict(slots);
  if (conflict !== undefined) {
    printLine(conflict);
    throw new UsageError("invalid quorum slot configuration");
  }
  return { metaPath, dataPath, ...request };
}

function asBytes(n: bigint): number {
  if (n > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new FsError(EINVAL, `${n} is larger than any device`);
  }
  return Number(n);
}

/** A size limit in whole blocks; 0, also after rounding down, is no limit. */
function sizeLimit(which: string, text: string | undefined, unit: number): number {
  if (text === undefined) return 0;
  const bytes = asBytes(parseSize(text));
  const rounded = bytes - bytes % unit;
  if (rounded !== bytes) {
    printLine(`${which} dev size ${bytes} rounded down to ${rounded} bytes`);
  }
  return rounded;
}

/** A slot of `NR,ADDR,PORT`. What is wrong goes to standard output, as from the reference. */
function parseSlot(text: string): QuorumSlotSetting {
  const slot = parseQuorumSlot(text);
  if (typeof slot !== "string") return slot;
  printLine(slot);
  throw errnoError(EINVAL);
}

async function mkfs(request: Request): Promise<void> {
  const { fmtVers, zoneBlocks } = request;
  const fsid = crypto.getRandomValues(new BigUint64Array(1))[0] as bigint;
  const uuid = randomUuid();
  const now = clockMicroseconds();
  if (isSameFile(request.metaPath, request.dataPath)) {
    throw new FsError(
      EINVAL,
      `${request.dataPath}: is given for both the metadata and the data device`,
    );
  }
  const made: string[] = [];
  const open: BlockDevice[] = [];
  try {
    const { metaPath, dataPath, newMeta, newData, force } = request;
    // Both are ours alone before either is changed.
    const metaClaim = await claimTarget(metaPath, newMeta, force, made);
    open.push(metaClaim);
    const dataClaim = await claimTarget(dataPath, newData, force, made);
    open.push(dataClaim);
    const meta = openTarget(metaClaim, newMeta, open);
    const data = openTarget(dataClaim, newData, open);
    const small = request.allowSmall;
    const metaBytes = usableSize(meta, "meta", request.maxMeta, small, request.newMeta);
    const dataBytes = usableSize(data, "data", request.maxData, small, request.newData);
    const slots = request.slots.length > 0
      ? request.slots
      : [{ nr: 0, addr: LOOPBACK, port: freePort() }];
    makeFilesystem(meta, data, {
      fsid,
      uuid,
      time: now,
      fmtVers,
      metaBytes,
      dataBytes,
      slots,
      ...(zoneBlocks === undefined ? {} : { dataAllocZoneBlocks: zoneBlocks }),
    });
    printSummary(request, fsid, uuid, metaBytes, dataBytes, slots);
  } catch (e) {
    for (const path of made) Deno.removeSync(path);
    throw e;
  } finally {
    for (const dev of open) dev.close();
  }
}

/** Whether two paths name one file or device, or would. */
function isSameFile(a: string, b: string): boolean {
  if (a === b) return true;
  try {
    return Deno.realPathSync(a) === Deno.realPathSync(b);
  } catch {
    return false; // One does not exist: opening it says so, or it is about to be made.
  }
}

/**
 * Opens what is to be overwritten, exclusively and without changing it; for a new image file
 * (`newBytes`) an empty one is made where there is none.
 */
async function claimTarget(
  path: string,
  newBytes: number | undefined,
  force: boolean,
  made: string[],
): Promise<BlockDevice> {
  if (newBytes !== undefined) makeImage(path, force, made);
  const minBytes = newBytes === undefined ? SM_SIZE : 0;
  const dev = openDevice(path, { write: true, exclusive: true, minBytes });
  if (!force && newBytes === undefined) {
    try {
      await refuseSignatures(dev);
    } catch (e) {
      dev.close();
      throw e;
    }
  }
  return dev;
}

/** What was claimed, as it is to be written: a new image is emptied and gets its size. */
function openTarget(
  claim: BlockDevice,
  newBytes: number | undefined,
  open: BlockDevice[],
): BlockDevice {
  if (newBytes === undefined) return claim;
  Deno.truncateSync(claim.name, 0);
  Deno.truncateSync(claim.name, newBytes);
  const dev = openDevice(claim.name, { write: true });
  open.push(dev);
  return dev;
}

/** Makes an empty file. Only `-f` takes one that exists, and nothing but regular files. */
function makeImage(path: string, force: boolean, made: string[]): void {
  try {
    const existing = Deno.statSync(path);
    if (!existing.isFile) {
      throw new FsError(EEXIST, `${path}: not a regular file: --size is for new image files`);
    }
    if (!force) {
      throw new FsError(EEXIST, `${path}: exists already: --size is for new image files`);
    }
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
    try {
      Deno.createSync(path).close();
    } catch (why) {
      const code = errnoNumber((why as { code?: string }).code ?? "") ?? EINVAL;
      throw new FsError(code, `${path}: cannot make the image file: ${strerror(code)}`);
    }
    made.push(path);
  }
}

/** Refuses a device that seems to hold something, in libblkid's opinion or in ours. */
async function refuseSignatures(dev: BlockDevice): Promise<void> {
  const ours = findSignature(dev);
  const found = ours?.kind === "scoutfs" ? ours : await askBlkid(dev.name) ?? ours;
  if (found === undefined) return;
  const what = found.kind === "partition table"
    ? `a partition table (${found.type})`
    : `an existing ${found.type} superblock`;
  throw new FsError(EINVAL, `${dev.name}: appears to contain ${what}`);
}

/** libblkid's opinion through util-linux; undefined when it knows nothing or is not installed. */
async function askBlkid(
  path: string,
): Promise<{ kind: "filesystem" | "partition table"; type: string } | undefined> {
  let text: string;
  try {
    const { stdout } = await new Deno.Command("blkid", {
      args: ["-p", "-o", "export", path],
      stdin: "null",
      stderr: "null",
    }).output();
    text = new TextDecoder().decode(stdout);
  } catch (e) {
    if (e instanceof Deno.errors.NotFound || e instanceof Deno.errors.PermissionDenied) return;
    throw e;
  }
  const type = /^TYPE=(.*)$/m.exec(text)?.[1];
  if (type !== undefined) return { kind: "filesystem", type };
  const table = /^PTTYPE=(.*)$/m.exec(text)?.[1];
  return table === undefined ? undefined : { kind: "partition table", type: table };
}

/** Bytes to use of a device: all of it or what a limit leaves; below 64 GiB only if allowed. */
function usableSize(
  dev: BlockDevice,
  which: "meta" | "data",
  limit: number,
  allowSmall: boolean,
  newBytes: number | undefined,
): number {
  let size = dev.size;
  if (limit > size) {
    printLine(
      `Device size limit of ${formatSize(limit)} for ${which} device is greater than ${
        formatSize(size)
      } available, ignored.`,
    );
  } else if (limit > 0 && limit < size) {
    printLine(
      `Limiting use of ${formatSize(size)} ${which} device to ${formatSize(limit)}`,
    );
    size = limit;
  }
  if (size >= MIN_DEVICE_BYTES) return size;
  const line = `${formatSize(size)} too small for min ${
    formatSize(MIN_DEVICE_BYTES)
  } ${which} device`;
  if (allowSmall) printError(`${line}, allowing with -A`);
  else if (newBytes === undefined) throw new FsError(EINVAL, line);
  else if (which === "meta") {
    printError(
      `note: ${
        formatSize(size)
      } of metadata suits this program, but the reference implementation ` +
        `reserves about 7 GiB before it allocates`,
    );
  }
  return size;
}

/** A port of 127.0.0.1 that nothing listens on now, for the slot of a filesystem made without -Q. */
function freePort(): number {
  const draw = crypto.getRandomValues(new Uint32Array(64));
  for (const n of draw) {
    const port = DEFAULT_PORTS.first + n % DEFAULT_PORTS.count;
    try {
      Deno.listen({ hostname: ipv4Text(LOOPBACK), port }).close();
      return port;
    } catch (e) {
      if (!(e instanceof Deno.errors.AddrInUse)) throw e;
    }
  }
  throw new FsError(EBUSY, "no free port found for the default quorum slot: give one with -Q");
}

/** A version 4 UUID. */
function randomUuid(): Uint8Array {
  const uuid = crypto.getRandomValues(new Uint8Array(16));
  uuid[6] = (uuid[6] as number) & 0x0f | 0x40;
  uuid[8] = (uuid[8] as number) & 0x3f | 0x80;
  return uuid;
}

/** The wall clock in microseconds, as the root directory's times keep it. */
function clockMicroseconds(): { sec: number; nsec: number } {
  const micros = Math.round((performance.timeOrigin + performance.now()) * 1000);
  return { sec: Math.floor(micros / 1e6), nsec: micros % 1e6 * 1000 };
}

function printSummary(
  request: Request,
  fsid: bigint,
  uuid: Uint8Array,
  metaBytes: number,
  dataBytes: number,
  slots: readonly QuorumSlotSetting[],
): void {
  const blocks = (bytes: number, unit: number) => {
    const nr = Math.floor(bytes / unit);
    return `${nr} (${formatSize(nr * unit, " ")})`;
  };
  const sorted = [...slots].sort((a, b) => a.nr - b.nr);
  printLine(`Created scoutfs filesystem:
  meta device path:       ${request.metaPath}
  data device path:       ${request.dataPath}
  fsid:                   ${fsid.toString(16)}
  uuid:                   ${formatUuid(uuid)}
  format version:         ${request.fmtVers}
  64KB metadata blocks:   ${blocks(metaBytes, LG_SIZE)}
  4KB data blocks:        ${blocks(dataBytes, SM_SIZE)}
  quorum config version:  1
  quorum slots:           ${
    sorted.map((s) => `${s.nr}: ${slotAddress(s)}`).join("\n                          ")
  }`);
}
