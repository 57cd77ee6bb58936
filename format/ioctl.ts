/**
 * Ioctls of the mount: numbers and flags (05 §8, §9); the structures are in ioctl_file.ts and
 * ioctl_volume.ts. A number carries direction and size of its argument; four carry the wrong
 * direction, as the reference's do. Pointers are addresses in the calling process, as bigints.
 */

export * from "./ioctl_file.ts";
export * from "./ioctl_volume.ts";

/** `_IOC(direction, 0xE8, nr, size)`, unsigned. */
const ioc = (direction: number, nr: number, size: number): number =>
  (direction << 30 | size << 16 | 0xe8 << 8 | nr) >>> 0;
const W = 1, R = 2, WR = 3;

export const IOC_WALK_INODES = ioc(W, 1, 72);
export const IOC_INO_PATH = ioc(W, 2, 40);
export const IOC_RELEASE = ioc(W, 3, 24);
export const IOC_STAGE = ioc(W, 4, 32);
export const IOC_STAT_MORE = ioc(R, 5, 56);
export const IOC_DATA_WAITING = ioc(W, 6, 40);
export const IOC_SETATTR_MORE = ioc(W, 7, 48);
export const IOC_LISTXATTR_HIDDEN = ioc(WR, 8, 24);
export const IOC_SEARCH_XATTRS = ioc(W, 9, 56);
export const IOC_STATFS_MORE = ioc(R, 10, 48);
export const IOC_DATA_WAIT_ERR = ioc(W, 11, 48);
export const IOC_ALLOC_DETAIL = ioc(W, 12, 16);
export const IOC_MOVE_BLOCKS = ioc(W, 13, 48);
export const IOC_RESIZE_DEVICES = ioc(W, 14, 16);
export const IOC_READ_XATTR_TOTALS = ioc(W, 15, 40);
export const IOC_GET_ALLOCATED_INOS = ioc(W, 16, 24);
export const IOC_GET_REFERRING_ENTRIES = ioc(W, 17, 40);
export const IOC_GET_ATTR_X = ioc(W, 18, 104);
export const IOC_SET_ATTR_X = ioc(W, 19, 104);
export const IOC_GET_QUOTA_RULES = ioc(R, 20, 32);
export const IOC_ADD_QUOTA_RULE = ioc(W, 21, 48);
export const IOC_DEL_QUOTA_RULE = ioc(W, 22, 48);
export const IOC_READ_XATTR_INDEX = ioc(R, 23, 72);
export const IOC_PUNCH_OFFLINE = ioc(W, 24, 32);
export const IOC_INJECT_TOTL_DELTA = ioc(W, 25, 40);

// Mask bits of GET_ATTR_X and SET_ATTR_X
export const IOC_IAX_META_SEQ = 1 << 0;
export const IOC_IAX_DATA_SEQ = 1 << 1;
export const IOC_IAX_DATA_VERSION = 1 << 2;
export const IOC_IAX_ONLINE_BLOCKS = 1 << 3;
export const IOC_IAX_OFFLINE_BLOCKS = 1 << 4;
export const IOC_IAX_CTIME = 1 << 5;
export const IOC_IAX_CRTIME = 1 << 6;
export const IOC_IAX_SIZE = 1 << 7;
export const IOC_IAX_RETENTION = 1 << 8;
export const IOC_IAX_PROJECT_ID = 1 << 9;
/** All known mask bits. */
export const IOC_IAX_ALL = (1 << 10) - 1;
/** `x_flags`: the size is that of an offline extent. */
export const IOC_IAX_F_SIZE_OFFLINE = 1;
/** `bits`: retention. */
export const IOC_IAX_B_RETENTION = 1;

export const IOC_SETATTR_MORE_OFFLINE = 1;
export const IOC_MOVE_BLOCKS_STAGE = 1;
/** `output_flags` of SEARCH_XATTRS: everything up to `last_ino` was covered. */
export const IOC_SEARCH_XATTRS_OFLAG_END = 1;

// Waiter operations of DATA_WAITING and DATA_WAIT_ERR
export const IOC_WAIT_OP_READ = 1;
export const IOC_WAIT_OP_WRITE = 2;
export const IOC_WAIT_OP_CHANGE_SIZE = 4;

// Flags of an alloc_detail entry
export const IOC_ALLOC_DETAIL_META = 1;
export const IOC_ALLOC_DETAIL_AVAIL = 2;

/** Fixed bytes of an entry of GET_REFERRING_ENTRIES before its name. */
export const IOC_REFERRING_ENTRY_NAME_OFF = 29;
/** `flags` of such an entry: the last one. */
export const IOC_REFERRING_ENTRY_LAST = 1;
/** Bytes of an entry with a name of `nameLen` bytes: NUL and alignment included. */
export const referringEntryBytes = (nameLen: number): number =>
  IOC_REFERRING_ENTRY_NAME_OFF + nameLen + 1 + 15 & ~15;
