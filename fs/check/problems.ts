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

const REBUILD_FREE = "Free space of both devices is made anew: everything that nothing references.";
const REWRITE_BLOCK =
  "The block is written anew, elsewhere, with the items in it that can be believed; others are " +
  "searched for in older copies.";
const DROP_BLOCK =
  "Nothing refers to the block any more. Leaves below it are searched for on the device, items of a " +
  "leaf in older copies of it; what is not found is lost.";
const DROP_ITEM = "The item is removed.";
const COUNT = "The count is corrected.";
const SEARCH =
  "Search entries are made anew from the attributes; files that cannot be read are dropped.";
const ENTRY =
  "The three items of the entry are made to agree with what most of them say; where they are equally " +
  "many -p does nothing. With -y only: an entry that leads to no inode is removed, as is a stray item of " +
  "an inode that has all its names without it; a directory of which nothing is left is made anew.";
const SUPER = "The super block is written without them.";
const MERGE =
  "Wrong counts are corrected; else the merge is given up, and the next one takes its log trees anew.";
const SUPER_ANEW =
  "It is written anew from the other super block, the quorum blocks and a search for the newest roots, " +
  "if any inode is found; the data device's only if something shows that it is the volume's.";
const SERVER =
  "The server's tree is written anew from its items, in the state in which a server leaves it.";

export const PROBLEMS = {
  // Fixed blocks.
  "super-read": kind(
    "error",
    "the super block of the {dev} device cannot be read",
    "lossy",
    SUPER_ANEW,
  ),
  "super-magic": kind("error", "the {dev} device has no super block", "lossy", SUPER_ANEW),
  "super-crc": kind(
    "error",
    "the super block of the {dev} device has a wrong checksum",
    "lossy",
    SUPER_ANEW,
  ),
  "super-blkno": kind(
    "error",
    "the super block of the {dev} device says that it is another block",
    "lossy",
    SUPER_ANEW,
  ),
  "super-version": kind(
    "error",
    "the super block of the {dev} device has format version {vers}",
    "lossy",
    SUPER_ANEW,
  ),
  "super-role": kind(
    "error",
    "the {dev} device is not the one for that: its flags are {flags}",
    "lossy",
    SUPER_ANEW,
  ),
  "super-flags": kind(
    "error",
    "unknown flags in the super block of the {dev} device: {flags}",
    "lossy",
    SUPER,
  ),
  "super-reserved": kind(
    "warning",
    "super block of the {dev} device: {what} must be zero",
    "safe",
    SUPER,
  ),
  "super-size": kind(
    "error",
    "the super block of the {dev} device claims {blocks} {what} blocks, the device has {has}",
    "lossy",
    SUPER_ANEW,
  ),
  "super-seq": kind(
    "error",
    "the sequence counter of the super block is {seq}",
    "safe",
    "The counter is set to the greatest sequence number on the volume.",
  ),
  "super-next-ino": kind(
    "error",
    "the next inode number of the super block is {nextIno}",
    "safe",
    "It is set beyond the greatest inode number.",
  ),
  "super-slot": kind(
    "error",
    "quorum slot {slot} of the super block: {why}",
    "lossy",
    "The slot becomes what the data device remembers of it, or absent: set it with change-quorum-config.",
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
    "Set the slots with change-quorum-config, or give them with --quorum-slot.",
  ),
  "super-slot-version": kind(
    "warning",
    "the version of the quorum configuration is 0",
    "safe",
    SUPER,
  ),
  "super-option": kind(
    "error",
    "volume options of the super block: {why}",
    "lossy",
    "Options that mean nothing are cleared.",
  ),
  "super-pair": kind(
    "error",
    "the super blocks of the two devices differ in their {what}",
    "lossy",
    SUPER_ANEW,
  ),
  "quorum-read": kind(
    "error",
    "the quorum block of slot {slot} cannot be read",
    "lossy",
    "An empty block is written, which a device may take where it cannot read; what the old one said of " +
      "its slot's last mount is lost.",
  ),
  "quorum-block": kind(
    "error",
    "the quorum block of slot {slot} is bad: {why}",
    "lossy",
    "An empty block is written; what it said of its slot's last mount is lost.",
  ),
  "quorum-event": kind(
    "warning",
    "quorum block of slot {slot}: {why}",
    "lossy",
    "An empty block is written; what it said of its slot's last mount is lost.",
  ),
  // State.
  "undersized": kind(
    "info",
    "the volume was made with {blocks} metadata blocks, fewer than the format can use: its free space cannot be checked",
    "none",
    "Make a larger volume and copy the files.",
  ),
  "not-clean": kind(
    "info",
    "mounts are there, or ended without unmounting: {clients} mounted clients, {open} open log trees, running slots: {slots}",
    "none",
    "The next mount recovers what a crash left, and so do -p and -y.",
  ),
  // Blocks and references.
  "ref-range": kind(
    "error",
    "{what}: reference to block {blkno}, which does not exist",
    "lossy",
    DROP_BLOCK,
  ),
  "root-height": kind(
    "error",
    "{what}: a root of height {height} at block {blkno}",
    "lossy",
    "The tree is emptied.",
  ),
  "root-pad": kind("warning", "{what}: padding of its root is not zero", "safe", SUPER),
  "block-read": kind("error", "{what}: block {blkno} cannot be read", "lossy", DROP_BLOCK),
  "block-crc": kind("error", "{what}: block {blkno} has a wrong checksum", "lossy", REWRITE_BLOCK),
  "block-magic": kind("error", "{what}: block {blkno} is of another kind", "lossy", DROP_BLOCK),
  "block-fsid": kind(
    "error",
    "{what}: block {blkno} is of another filesystem",
    "lossy",
    DROP_BLOCK,
  ),
  "block-seq": kind(
    "error",
    "{what}: block {blkno} is not the version that is referenced",
    "lossy",
    DROP_BLOCK,
  ),
  "block-blkno": kind(
    "error",
    "{what}: block {blkno} says that it is another block",
    "lossy",
    DROP_BLOCK,
  ),
  "btree-header": kind(
    "error",
    "{what}: header of block {blkno} of level {level}: {why}",
    "lossy",
    REWRITE_BLOCK,
  ),
  "btree-items": kind(
    "error",
    "{what}: block {blkno} of level {level}: {why}",
    "lossy",
    REWRITE_BLOCK,
  ),
  "btree-avl": kind(
    "error",
    "{what}: item tree of block {blkno} of level {level}: {why}",
    "safe",
    REWRITE_BLOCK,
  ),
  "btree-key": kind(
    "error",
    "{what}: keys of block {blkno} of level {level}: {why}",
    "lossy",
    REWRITE_BLOCK,
  ),
  "btree-value": kind(
    "error",
    "{what}: values of block {blkno} of level {level}: {why}",
    "lossy",
    REWRITE_BLOCK,
  ),
  "btree-total": kind(
    "error",
    "{what}: block {blkno} of level {level}: {why}",
    "safe",
    REWRITE_BLOCK,
  ),
  "btree-free": kind(
    "error",
    "{what}: free space of block {blkno} of level {level}: {why}",
    "safe",
    REWRITE_BLOCK,
  ),
  "btree-hash": kind(
    "error",
    "{what}: hash table of block {blkno} of level {level}: {why}",
    "safe",
    REWRITE_BLOCK,
  ),
  "btree-parent": kind(
    "error",
    "{what}: parent block {blkno} of level {level}: {why}",
    "lossy",
    REWRITE_BLOCK,
  ),
  "btree-flags": kind(
    "error",
    "{what}: block {blkno} of level {level}: {why}",
    "lossy",
    REWRITE_BLOCK,
  ),
  // Items of any tree.
  "item-zone": kind("error", "{what}: an item {key} does not belong there", "lossy", DROP_ITEM),
  "item-key": kind("error", "{what}: item {key} must have the key {expected}", "safe", SERVER),
  "item-key-fields": kind(
    "error",
    "{what}: item {key} uses fields of its key that it does not have",
    "lossy",
    DROP_ITEM,
  ),
  "item-length": kind("error", "{what}: item {key} has a value of {len} bytes", "lossy", DROP_ITEM),
  "item-number": kind(
    "error",
    "{what}: item {key} has the impossible number {value} at byte {at}",
    "lossy",
    DROP_ITEM,
  ),
  "item-seq": kind(
    "error",
    "{what}: item {key} has version {seq}, beyond {max}",
    "safe",
    "The counters of the log tree and of the super block are raised to it; where versions mean nothing the tree is written anew.",
  ),
  "item-stale": kind(
    "error",
    "item {key} of fs_root is newer than its versions in log trees",
    "safe",
    "The newest version is written once more, over the older ones.",
  ),
  "item-unmerged": kind(
    "error",
    "a log merge has gone past item {key} without merging it: its end would lose the item",
    "safe",
    MERGE,
  ),
  // Log trees, merging, clients.
  "log-tree": kind("error", "{what}: {why}", "safe", SERVER),
  "log-tree-open": kind(
    "error",
    "{what} is not finalized although a newer one of its mount exists",
    "safe",
    "It is finalized, as a server would.",
  ),
  "bloom-count": kind(
    "error",
    "bloom block of {what}: total_set is {value}, {found} bits are set",
    "safe",
    "The bloom block is made anew from the items.",
  ),
  "bloom-bits": kind(
    "error",
    "{what}: the bloom block hides item {key} from readers (lock {lock})",
    "safe",
    "The bloom block is made anew from the items.",
  ),
  "owner-unknown": kind(
    "error",
    "mount {rid} owns {what}, but is not among the mounted clients",
    "safe",
    "What it owns is taken back, as a server would.",
  ),
  "mounted-client": kind(
    "error",
    "mounted client {rid}: {why}",
    "safe",
    "All mounted clients are taken back, as a server would.",
  ),
  "merge": kind(
    "error",
    "{what}: {why}",
    "safe",
    MERGE,
  ),
  // Search files.
  "srch-file": kind("error", "{what}: {why}", "safe", SEARCH),
  "srch-bounds-narrow": kind(
    "info",
    "{what}: its bounds leave out entries, as the reference writes them",
    "none",
    "Nothing depends on it.",
  ),
  "srch-compaction": kind(
    "error",
    "{what}: {why}",
    "safe",
    "Compactions are given up; their input files stay.",
  ),
  "srch-missing": kind(
    "error",
    "search does not find attribute {id} of inode {ino} (hash {hash})",
    "safe",
    SEARCH,
  ),
  "srch-extra": kind(
    "error",
    "search finds attribute {id} of inode {ino} (hash {hash}), which does not exist",
    "safe",
    SEARCH,
  ),
  // Allocators.
  "alloc-flags": kind("warning", "{what}: flags {flags}", "safe", REBUILD_FREE),
  "list-count": kind(
    "error",
    "{what}: {field} is {value}, it should be {found}",
    "safe",
    REBUILD_FREE,
  ),
  "list-shape": kind(
    "error",
    "{what}: list block {blkno} has start {start} and nr {nr}",
    "safe",
    REBUILD_FREE,
  ),
  "extent-key": kind(
    "error",
    "{what}: free extent {key} uses fields that it does not have",
    "safe",
    REBUILD_FREE,
  ),
  "extent-range": kind(
    "error",
    "{what}: free extent {key} is outside the device",
    "safe",
    REBUILD_FREE,
  ),
  "extent-order": kind(
    "error",
    "{what}: free extent {key} is filed under another size",
    "safe",
    REBUILD_FREE,
  ),
  "extent-overlap": kind(
    "error",
    "{what}: the free extent of {len} blocks at {start} overlaps the one before",
    "safe",
    REBUILD_FREE,
  ),
  "extent-touch": kind(
    "info",
    "{what}: the free extent of {len} blocks at {start} touches the one before",
    "none",
    "Nothing depends on it.",
  ),
  "extent-index": kind(
    "error",
    "{what}: its two indexes hold different extents",
    "safe",
    REBUILD_FREE,
  ),
  "extent-total": kind(
    "error",
    "{what}: total_len is {value}, the extents have {found}",
    "safe",
    REBUILD_FREE,
  ),
  "meta-block-twice": kind(
    "error",
    "metadata block {blkno} belongs to {first} and to {second}",
    "lossy",
    "Whoever comes later gets a copy of the leaf; what is not a leaf of its tree is dropped.",
  ),
  "meta-free-in-use": kind(
    "error",
    "metadata block {blkno} belongs to {first}, but is {second}",
    "safe",
    REBUILD_FREE,
  ),
  "meta-free-twice": kind(
    "error",
    "metadata block {blkno} is {first} and {second}",
    "safe",
    REBUILD_FREE,
  ),
  "meta-leak": kind(
    "error",
    "{len} metadata blocks from {start} on are neither used nor free",
    "safe",
    REBUILD_FREE,
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
    "lossy",
    "The file that comes later gets a copy of the blocks.",
  ),
  "data-free-in-use": kind(
    "error",
    "{len} data blocks from {start} on belong to {first} and to {second}: one says that they are free",
    "safe",
    REBUILD_FREE,
  ),
  "data-free-twice": kind(
    "error",
    "{len} data blocks from {start} on are free in {first} and in {second}",
    "safe",
    REBUILD_FREE,
  ),
  "data-leak": kind(
    "error",
    "{len} data blocks from {start} on are neither used nor free",
    "safe",
    REBUILD_FREE,
  ),
  // Inodes.
  "root-inode": kind(
    "error",
    "the root directory is bad: {why}",
    "lossy",
    "A root directory is made.",
  ),
  "inode-count": kind("error", "the inode count is {value}, there are {found}", "safe", COUNT),
  "inode-length": kind(
    "error",
    "inode {ino} has a value of {len} bytes",
    "lossy",
    "The inode is written with its right length; what is missing is zero.",
  ),
  "inode-missing": kind(
    "error",
    "inode {ino} does not exist, but {items} items of it do",
    "lossy",
    "A new inode is made for the items, in lost+found if it has no name. A symlink without target is removed.",
  ),
  "inode-next-ino": kind(
    "error",
    "inode {ino} is not below the next inode number {nextIno}",
    "safe",
    "The next inode number of the super block is raised.",
  ),
  "inode-field": kind(
    "error",
    "inode {ino}: {field} is {value}",
    "lossy",
    "The field is set to what the inode's items say, or to zero.",
  ),
  "inode-size": kind(
    "error",
    "inode {ino}: {field} is {value}, it should be {found}",
    "safe",
    COUNT,
  ),
  "inode-nlink": kind(
    "error",
    "inode {ino}: {field} is {value}, it should be {found}",
    "safe",
    "The count is corrected; an inode without a name gets one in lost+found.",
  ),
  "inode-blocks": kind(
    "error",
    "inode {ino}: {field} is {value}, its extents have {found}",
    "safe",
    COUNT,
  ),
  "extents-missing": kind(
    "error",
    "inode {ino}: {field} is {value}, its extents have only {found}",
    "lossy",
    "The count is corrected: what the inode had in extents that are missing is lost.",
  ),
  "orphan-missing": kind(
    "error",
    "inode {ino} has no links and no orphan item: it would never be deleted",
    "lossy",
    "The orphan item is made: the next mount deletes the inode.",
  ),
  "orphan-extra": kind(
    "error",
    "an orphan item for inode {ino}, which has links or does not exist",
    "safe",
    DROP_ITEM,
  ),
  "index-missing": kind(
    "error",
    "inode {ino} is not in the {index} index at {seq}",
    "safe",
    "The item is made.",
  ),
  "index-extra": kind(
    "error",
    "the {index} index has inode {ino} at {seq}, where it is not",
    "safe",
    DROP_ITEM,
  ),
  // Names.
  "entry-value": kind("error", "{kind} {key} of inode {ino}: {why}", "safe", ENTRY),
  "entry-type": kind(
    "error",
    "an entry of directory {dir} says that inode {ino} is of type {type}",
    "safe",
    "The entry gets the type of its inode; a mode that all names and all items of the inode contradict is corrected.",
  ),
  "entry-without-twin": kind(
    "error",
    "directory {dir}: the entry at position {pos} for inode {child} has no {kind}",
    "safe",
    ENTRY,
  ),
  "twin-without-entry": kind(
    "error",
    "directory {dir}: a {kind} at position {pos} for inode {child} has no entry",
    "safe",
    ENTRY,
  ),
  "entry-twins-differ": kind(
    "error",
    "directory {dir}: the entry at position {pos} for inode {child} differs from its {kind}",
    "safe",
    ENTRY,
  ),
  "dir-pos-twice": kind(
    "error",
    "directory {dir} has two entries at position {pos}",
    "safe",
    "All but one get positions of their own.",
  ),
  "dir-name-twice": kind(
    "error",
    "directory {ino} has two entries called {name}",
    "safe",
    "All but the first get their position appended to their name.",
  ),
  "dir-next-pos": kind(
    "error",
    "directory {ino} has an entry at position {pos}, but gives out {next} next",
    "safe",
    "It is set beyond the greatest position.",
  ),
  "dir-parents": kind(
    "error",
    "directory {ino} has {backrefs} parents instead of {expected}",
    "safe",
    "A directory without a name gets one in lost+found. Of several names -y keeps the first of which all items agree.",
  ),
  "dir-parent-missing": kind(
    "error",
    "the parent {parent} of directory {ino} is no directory",
    "lossy",
    "The parent is made anew if nothing is left of it; else the directory is moved to lost+found.",
  ),
  "dir-cycle": kind(
    "error",
    "directory {ino} is inside itself",
    "lossy",
    "The directory is moved to lost+found.",
  ),
  "entries-in-file": kind(
    "error",
    "inode {ino} is no directory, but has {entries} entries",
    "lossy",
    "The entries are removed.",
  ),
  // Contents.
  "symlink": kind(
    "error",
    "symlink {ino}: {why}",
    "lossy",
    "The size is corrected if the target is whole; else the symlink is removed.",
  ),
  "extent-item": kind(
    "error",
    "inode {ino}: extent of {count} blocks that ends with block {end}: {why}",
    "lossy",
    "Flags are corrected, where the inode's block counts say how to what they say; an extent that lies " +
      "nowhere is removed.",
  ),
  "extent-file-overlap": kind(
    "error",
    "inode {ino}: the extent of {count} blocks at block {start} overlaps the one before",
    "lossy",
    "If the inode's block counts show which extent has a wrong length, or is one too many, that is " +
      "mended. Else the later extent is cut off where it overlaps.",
  ),
  "extent-file-touch": kind(
    "info",
    "inode {ino}: the extent of {count} blocks at block {start} could be one with that before",
    "none",
    "Nothing depends on it.",
  ),
  "extent-beyond-size": kind(
    "info",
    "inode {ino} has data up to block {last}, beyond its size of {size} bytes, where nobody reads it",
    "none",
    "If the size is wrong, truncate -s sets the right one, and the data is read again; if it is right, " +
      "setting it once more frees the blocks.",
  ),
  "extent-outside": kind(
    "error",
    "inode {ino}: an extent of {count} data blocks at {blkno} is outside the device",
    "lossy",
    "The extent is removed: its blocks do not exist.",
  ),
  "extents-in-other": kind(
    "error",
    "inode {ino} is no regular file, but has extents",
    "lossy",
    "The extents are removed.",
  ),
  "xattr": kind(
    "error",
    "inode {ino}: attribute {hash}.{id}: {why}",
    "lossy",
    "If all its parts are there padding is zeroed, it is filed under the hash of its name, a wrong length " +
      "of the name and length, version and permissions of an ACL are corrected. Else it is removed; with an access ACL the mode's rights of " +
      "the group go.",
  ),
  "xattr-name-twice": kind(
    "error",
    "inode {ino} has two attributes called {name}",
    "lossy",
    "The one made last stays.",
  ),
  "xattr-id-twice": kind(
    "error",
    "inode {ino} has two attributes with id {id}",
    "safe",
    "All but the first get new ids.",
  ),
  "xattr-next-id": kind(
    "error",
    "inode {ino} has an attribute with id {id}, but gives out {nextId} next",
    "safe",
    "It is set beyond the greatest id.",
  ),
  "xattr-headless": kind(
    "error",
    "inode {ino} has {count} attributes without a first part",
    "lossy",
    "The parts are removed.",
  ),
  "totl": kind(
    "error",
    "total {name} is {total} of {count}, its attributes have {foundTotal} of {foundCount}",
    "safe",
    "The total is corrected to what the attributes add up to.",
  ),
  "indx-missing": kind(
    "error",
    "an index attribute is not in the index at {key}",
    "safe",
    "The item is made.",
  ),
  "indx-extra": kind(
    "error",
    "the attribute index has {key}, for which there is no attribute",
    "safe",
    DROP_ITEM,
  ),
  "quota-rule": kind(
    "error",
    "quota rule {key}: {why}",
    "lossy",
    "A rule with one wrong bit becomes what its hash says. One under a wrong hash or number is filed anew; " +
      "one that means nothing is removed.",
  ),
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
