/**
 * The one table of everything that fsck can find. A code is stable: scripts and tests name it. The
 * message is a template whose `{name}`s are filled in where the problem is reported.
 *
 * Severities: `error` contradicts the format and something may fail or be lost; `warning` is a
 * contradiction that nothing depends on; `info` is worth knowing and is no problem (what the
 * reference is known to leave behind, what state the volume is in). Errors and warnings decide the
 * exit status, infos do not.
 *
 * Mending: `safe` loses nothing, done by -p and -y; `lossy` may lose what the damage made
 * contradictory, done by -y only; `none` is only reported.
 */

export type Severity = "error" | "warning" | "info";
export type Mending = "safe" | "lossy" | "none";

export interface ProblemKind {
  readonly severity: Severity;
  /** What is wrong, in one line. */
  readonly text: string;
  readonly mending: Mending;
  /** What mending does; for `none`, what an administrator can do. */
  readonly how: string;
}

const kind = (
  severity: Severity,
  text: string,
  mending: Mending,
  how: string,
): ProblemKind => ({ severity, text, mending, how });

const NOTHING = "Reported only.";

export const PROBLEMS = {
  // Fixed blocks.
  "super-read": kind(
    "error",
    "the super block of the {dev} device cannot be read",
    "none",
    NOTHING,
  ),
  "super-magic": kind("error", "the {dev} device has no super block", "none", NOTHING),
  "super-crc": kind(
    "error",
    "the super block of the {dev} device has a wrong checksum",
    "none",
    NOTHING,
  ),
  "super-blkno": kind(
    "error",
    "the super block of the {dev} device says that it is another block",
    "none",
    NOTHING,
  ),
  "super-version": kind(
    "error",
    "the super block of the {dev} device has format version {vers}",
    "none",
    NOTHING,
  ),
  "super-role": kind(
    "error",
    "the {dev} device is not the one for that: its flags are {flags}",
    "none",
    "Give the devices in the right order.",
  ),
  "super-flags": kind(
    "error",
    "unknown flags in the super block of the {dev} device: {flags}",
    "none",
    NOTHING,
  ),
  "super-reserved": kind(
    "warning",
    "super block of the {dev} device: {what} must be zero",
    "none",
    NOTHING,
  ),
  "super-size": kind(
    "error",
    "the super block of the {dev} device claims {blocks} {what} blocks, the device has {has}",
    "none",
    NOTHING,
  ),
  "super-seq": kind("error", "the sequence counter of the super block is {seq}", "none", NOTHING),
  "super-next-ino": kind(
    "error",
    "the next inode number of the super block is {nextIno}",
    "none",
    NOTHING,
  ),
  "super-slot": kind(
    "error",
    "quorum slot {slot} of the super block: {why}",
    "none",
    "Set the slots with change-quorum-config.",
  ),
  "super-slot-unmountable": kind(
    "info",
    "quorum slot {slot} has the address {addr}, which mkfs takes but a mount does not",
    "none",
    "Set the slots with change-quorum-config.",
  ),
  "super-no-slots": kind(
    "error",
    "the super block has no quorum slot: nothing can mount the volume",
    "none",
    "Set the slots with change-quorum-config.",
  ),
  "super-slot-version": kind(
    "warning",
    "the version of the quorum configuration is 0",
    "none",
    NOTHING,
  ),
  "super-option": kind("error", "volume options of the super block: {why}", "none", NOTHING),
  "super-pair": kind(
    "error",
    "the super blocks of the two devices differ in their {what}",
    "none",
    NOTHING,
  ),
  "quorum-read": kind("error", "the quorum block of slot {slot} cannot be read", "none", NOTHING),
  "quorum-block": kind("error", "the quorum block of slot {slot} is bad: {why}", "none", NOTHING),
  "quorum-event": kind("warning", "quorum block of slot {slot}: {why}", "none", NOTHING),
  // State.
  "undersized": kind(
    "info",
    "the volume was made with {blocks} metadata blocks, fewer than the format can use: its free space cannot be checked",
    "none",
    "Make a larger volume and copy the files.",
  ),
  "not-clean": kind(
    "info",
    "the volume was not unmounted cleanly: {clients} mounted clients, {open} open log trees, running slots: {slots}",
    "none",
    "The next mount recovers it.",
  ),
  // Blocks and references.
  "ref-range": kind(
    "error",
    "{what}: reference to block {blkno}, which does not exist",
    "none",
    NOTHING,
  ),
  "root-height": kind(
    "error",
    "{what}: a root of height {height} at block {blkno}",
    "none",
    NOTHING,
  ),
  "root-pad": kind("warning", "{what}: padding of its root is not zero", "none", NOTHING),
  "block-read": kind("error", "{what}: block {blkno} cannot be read", "none", NOTHING),
  "block-crc": kind("error", "{what}: block {blkno} has a wrong checksum", "none", NOTHING),
  "block-magic": kind("error", "{what}: block {blkno} is of another kind", "none", NOTHING),
  "block-fsid": kind("error", "{what}: block {blkno} is of another filesystem", "none", NOTHING),
  "block-seq": kind(
    "error",
    "{what}: block {blkno} is not the version that is referenced",
    "none",
    NOTHING,
  ),
  "block-blkno": kind(
    "error",
    "{what}: block {blkno} says that it is another block",
    "none",
    NOTHING,
  ),
  "btree-shape": kind("error", "{what}: block {blkno} of level {level}: {why}", "none", NOTHING),
  "btree-header": kind(
    "error",
    "{what}: header of block {blkno} of level {level}: {why}",
    "none",
    NOTHING,
  ),
  "btree-items": kind("error", "{what}: block {blkno} of level {level}: {why}", "none", NOTHING),
  "btree-avl": kind(
    "error",
    "{what}: item tree of block {blkno} of level {level}: {why}",
    "none",
    NOTHING,
  ),
  "btree-key": kind(
    "error",
    "{what}: keys of block {blkno} of level {level}: {why}",
    "none",
    NOTHING,
  ),
  "btree-value": kind(
    "error",
    "{what}: values of block {blkno} of level {level}: {why}",
    "none",
    NOTHING,
  ),
  "btree-total": kind("error", "{what}: block {blkno} of level {level}: {why}", "none", NOTHING),
  "btree-free": kind(
    "error",
    "{what}: free space of block {blkno} of level {level}: {why}",
    "none",
    NOTHING,
  ),
  "btree-hash": kind(
    "error",
    "{what}: hash table of block {blkno} of level {level}: {why}",
    "none",
    NOTHING,
  ),
  "btree-parent": kind(
    "error",
    "{what}: parent block {blkno} of level {level}: {why}",
    "none",
    NOTHING,
  ),
  "btree-flags": kind("error", "{what}: block {blkno} of level {level}: {why}", "none", NOTHING),
  // Items of any tree.
  "item-zone": kind("error", "{what}: an item {key} does not belong there", "none", NOTHING),
  "item-key": kind("error", "{what}: item {key} must have the key {expected}", "none", NOTHING),
  "item-key-fields": kind(
    "error",
    "{what}: item {key} uses fields of its key that it does not have",
    "none",
    NOTHING,
  ),
  "item-length": kind("error", "{what}: item {key} has a value of {len} bytes", "none", NOTHING),
  "item-number": kind(
    "error",
    "{what}: item {key} has the impossible number {value} at byte {at}",
    "none",
    NOTHING,
  ),
  "item-seq": kind("error", "{what}: item {key} has version {seq}, beyond {max}", "none", NOTHING),
  "item-stale": kind(
    "error",
    "item {key} of fs_root is newer than its versions in log trees",
    "none",
    NOTHING,
  ),
  // Log trees, merging, clients.
  "log-tree": kind("error", "{what}: {why}", "none", NOTHING),
  "log-tree-open": kind(
    "error",
    "{what} is not finalized although a newer one of its mount exists",
    "none",
    NOTHING,
  ),
  "bloom-count": kind(
    "error",
    "bloom block of {what}: total_set is {value}, {found} bits are set",
    "none",
    NOTHING,
  ),
  "bloom-bits": kind(
    "error",
    "{what}: the bloom block hides item {key} from readers (lock {lock})",
    "none",
    NOTHING,
  ),
  "owner-unknown": kind(
    "error",
    "mount {rid} owns {what}, but is not among the mounted clients",
    "none",
    NOTHING,
  ),
  "mounted-client": kind("error", "mounted client {rid}: {why}", "none", NOTHING),
  "merge": kind("error", "{what}: {why}", "none", NOTHING),
  // Search files.
  "srch-file": kind("error", "{what}: {why}", "none", NOTHING),
  "srch-bounds-narrow": kind(
    "info",
    "{what}: its bounds leave out entries, as the reference writes them",
    "none",
    "Nothing depends on it.",
  ),
  "srch-compaction": kind("error", "{what}: {why}", "none", NOTHING),
  "srch-missing": kind(
    "error",
    "search does not find attribute {id} of inode {ino} (hash {hash})",
    "none",
    NOTHING,
  ),
  "srch-extra": kind(
    "error",
    "search finds attribute {id} of inode {ino} (hash {hash}), which does not exist",
    "none",
    NOTHING,
  ),
  // Allocators.
  "alloc-flags": kind("warning", "{what}: flags {flags}", "none", NOTHING),
  "list-count": kind("error", "{what}: {field} is {value}, it should be {found}", "none", NOTHING),
  "list-shape": kind(
    "error",
    "{what}: list block {blkno} has start {start} and nr {nr}",
    "none",
    NOTHING,
  ),
  "extent-key": kind(
    "error",
    "{what}: free extent {key} uses fields that it does not have",
    "none",
    NOTHING,
  ),
  "extent-range": kind("error", "{what}: free extent {key} is outside the device", "none", NOTHING),
  "extent-order": kind(
    "error",
    "{what}: free extent {key} is filed under another size",
    "none",
    NOTHING,
  ),
  "extent-overlap": kind(
    "error",
    "{what}: the free extent of {len} blocks at {start} overlaps the one before",
    "none",
    NOTHING,
  ),
  "extent-touch": kind(
    "info",
    "{what}: the free extent of {len} blocks at {start} touches the one before",
    "none",
    "Nothing depends on it.",
  ),
  "extent-index": kind("error", "{what}: its two indexes hold different extents", "none", NOTHING),
  "extent-total": kind(
    "error",
    "{what}: total_len is {value}, the extents have {found}",
    "none",
    NOTHING,
  ),
  "meta-block-twice": kind(
    "error",
    "metadata block {blkno} belongs to {first} and to {second}",
    "none",
    NOTHING,
  ),
  "meta-free-in-use": kind(
    "error",
    "metadata block {blkno} belongs to {first}, but is {second}",
    "none",
    NOTHING,
  ),
  "meta-free-twice": kind(
    "error",
    "metadata block {blkno} is {first} and {second}",
    "none",
    NOTHING,
  ),
  "meta-leak": kind(
    "error",
    "{len} metadata blocks from {start} on are neither used nor free",
    "none",
    NOTHING,
  ),
  "meta-leak-parent": kind(
    "info",
    "metadata block {blkno} is what the reference leaves of a merged log tree",
    "none",
    "It is lost space of 64 KiB.",
  ),
  "data-block-twice": kind(
    "error",
    "{len} data blocks from {start} on belong to {first} and to {second}",
    "none",
    NOTHING,
  ),
  "data-free-in-use": kind(
    "error",
    "{len} data blocks from {start} on belong to {first} and to {second}: one says that they are free",
    "none",
    NOTHING,
  ),
  "data-free-twice": kind(
    "error",
    "{len} data blocks from {start} on are free in {first} and in {second}",
    "none",
    NOTHING,
  ),
  "data-leak": kind(
    "error",
    "{len} data blocks from {start} on are neither used nor free",
    "none",
    NOTHING,
  ),
  // Inodes.
  "root-inode": kind("error", "the root directory is bad: {why}", "none", NOTHING),
  "inode-count": kind("error", "the inode count is {value}, there are {found}", "none", NOTHING),
  "inode-length": kind("error", "inode {ino} has a value of {len} bytes", "none", NOTHING),
  "inode-missing": kind(
    "error",
    "inode {ino} does not exist, but {items} items of it do",
    "none",
    NOTHING,
  ),
  "inode-next-ino": kind(
    "error",
    "inode {ino} is not below the next inode number {nextIno}",
    "none",
    NOTHING,
  ),
  "inode-field": kind("error", "inode {ino}: {field} is {value}", "none", NOTHING),
  "inode-size": kind(
    "error",
    "inode {ino}: {field} is {value}, it should be {found}",
    "none",
    NOTHING,
  ),
  "inode-nlink": kind(
    "error",
    "inode {ino}: {field} is {value}, it should be {found}",
    "none",
    NOTHING,
  ),
  "inode-blocks": kind(
    "error",
    "inode {ino}: {field} is {value}, its extents have {found}",
    "none",
    NOTHING,
  ),
  "orphan-missing": kind(
    "error",
    "inode {ino} has no links and no orphan item: it would never be deleted",
    "none",
    NOTHING,
  ),
  "orphan-extra": kind(
    "error",
    "an orphan item for inode {ino}, which has links or does not exist",
    "none",
    NOTHING,
  ),
  "index-missing": kind(
    "error",
    "inode {ino} is not in the {index} index at {seq}",
    "none",
    NOTHING,
  ),
  "index-extra": kind(
    "error",
    "the {index} index has inode {ino} at {seq}, where it is not",
    "none",
    NOTHING,
  ),
  // Names.
  "entry-value": kind("error", "{kind} {key} of inode {ino}: {why}", "none", NOTHING),
  "entry-type": kind(
    "error",
    "an entry of directory {dir} says that inode {ino} is of type {type}",
    "none",
    NOTHING,
  ),
  "entry-without-twin": kind(
    "error",
    "directory {dir}: the entry at position {pos} for inode {child} has no {kind}",
    "none",
    NOTHING,
  ),
  "twin-without-entry": kind(
    "error",
    "directory {dir}: a {kind} at position {pos} for inode {child} has no entry",
    "none",
    NOTHING,
  ),
  "entry-twins-differ": kind(
    "error",
    "directory {dir}: the entry at position {pos} for inode {child} differs from its {kind}",
    "none",
    NOTHING,
  ),
  "dir-pos-twice": kind(
    "error",
    "directory {dir} has two entries at position {pos}",
    "none",
    NOTHING,
  ),
  "dir-name-twice": kind("error", "directory {ino} has two entries called {name}", "none", NOTHING),
  "dir-next-pos": kind(
    "error",
    "directory {ino} has an entry at position {pos}, but gives out {next} next",
    "none",
    NOTHING,
  ),
  "dir-parents": kind(
    "error",
    "directory {ino} has {backrefs} parents instead of {expected}",
    "none",
    NOTHING,
  ),
  "dir-parent-missing": kind(
    "error",
    "the parent {parent} of directory {ino} is no directory",
    "none",
    NOTHING,
  ),
  "dir-cycle": kind("error", "directory {ino} is inside itself", "none", NOTHING),
  "entries-in-file": kind(
    "error",
    "inode {ino} is no directory, but has {entries} entries",
    "none",
    NOTHING,
  ),
  // Contents.
  "symlink": kind("error", "symlink {ino}: {why}", "none", NOTHING),
  "extent-item": kind(
    "error",
    "inode {ino}: extent of {count} blocks that ends with block {end}: {why}",
    "none",
    NOTHING,
  ),
  "extent-file-overlap": kind(
    "error",
    "inode {ino}: the extent of {count} blocks at block {start} overlaps the one before",
    "none",
    NOTHING,
  ),
  "extent-file-touch": kind(
    "info",
    "inode {ino}: the extent of {count} blocks at block {start} could be one with that before",
    "none",
    "Nothing depends on it.",
  ),
  "extent-outside": kind(
    "error",
    "inode {ino}: an extent of {count} data blocks at {blkno} is outside the device",
    "none",
    NOTHING,
  ),
  "extents-in-other": kind(
    "error",
    "inode {ino} is no regular file, but has extents",
    "none",
    NOTHING,
  ),
  "xattr": kind("error", "inode {ino}: attribute {hash}.{id}: {why}", "none", NOTHING),
  "xattr-name-twice": kind(
    "error",
    "inode {ino} has two attributes called {name}",
    "none",
    NOTHING,
  ),
  "xattr-id-twice": kind("error", "inode {ino} has two attributes with id {id}", "none", NOTHING),
  "xattr-next-id": kind(
    "error",
    "inode {ino} has an attribute with id {id}, but gives out {nextId} next",
    "none",
    NOTHING,
  ),
  "xattr-headless": kind(
    "error",
    "inode {ino} has {count} attributes without a first part",
    "none",
    NOTHING,
  ),
  "totl": kind(
    "error",
    "total {name} is {total} of {count}, its attributes have {foundTotal} of {foundCount}",
    "none",
    NOTHING,
  ),
  "indx-missing": kind("error", "an index attribute is not in the index at {key}", "none", NOTHING),
  "indx-extra": kind(
    "error",
    "the attribute index has {key}, for which there is no attribute",
    "none",
    NOTHING,
  ),
  "quota-rule": kind("error", "quota rule {key}: {why}", "none", NOTHING),
} as const satisfies Record<string, ProblemKind>;

export type ProblemCode = keyof typeof PROBLEMS;

export const isProblemCode = (code: string): code is ProblemCode => Object.hasOwn(PROBLEMS, code);

export type Values = Readonly<Record<string, string | number | bigint>>;

/** The message of a problem: its template with the values filled in. */
export function problemText(code: ProblemCode, values: Values): string {
  return PROBLEMS[code].text.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = values[name];
    if (value === undefined) throw new Error(`problem ${code} is reported without '${name}'`);
    return String(value);
  });
}
