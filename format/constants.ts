/**
 * The numbers of the on-disk format (01 §3) under the specification's names, and the few masks
 * and flags that go with its structures.
 */

/** Bytes of a small block: super, quorum and data blocks. */
export const SM_SIZE = 4096;
export const SM_SHIFT = 12;
/** Bytes of a large block: every other metadata block. */
export const LG_SIZE = 65536;
export const LG_SHIFT = 16;

export const FMT_VERS_MIN = 1;
export const FMT_VERS_MAX = 2;

/** Small block number of the super block on both devices. */
export const SUPER_BLKNO = 16;
export const QUORUM_BLKNO = 17;
export const QUORUM_BLOCKS = 15;
export const QUORUM_MAX_SLOTS = 15;
/** First large metadata block that is allocated dynamically. */
export const META_DEV_START_BLKNO = 2;
/** First small block of file data. */
export const DATA_DEV_START_BLKNO = 64;
export const SM_MAX = 4503599627370495;
export const LG_MAX = 281474976710655;

export const UUID_BYTES = 16;

// Block magics, 01 §3.1
export const MAGIC_SUPER = 0x103c428b;
export const MAGIC_BTREE = 0xe597f96d;
export const MAGIC_BLOOM = 0x31995604;
export const MAGIC_SRCH_BLOCK = 0x897e4a7d;
export const MAGIC_SRCH_PARENT = 0xb23a2a05;
export const MAGIC_ALLOC_LIST = 0x8a93ac83;
export const MAGIC_QUORUM = 0xbc310868;
/** `f_type` of statfs, "SCOU". */
export const STATFS_MAGIC = 0x554f4353;

// Key zones and types, 01 §3.2
export const ZONE_INODE_INDEX = 4;
export const TYPE_INODE_INDEX_META_SEQ = 4;
export const TYPE_INODE_INDEX_DATA_SEQ = 8;
export const ZONE_ORPHAN = 8;
export const TYPE_ORPHAN = 4;
export const ZONE_QUOTA = 10;
export const TYPE_QUOTA_RULE = 4;
export const ZONE_XATTR_TOTL = 12;
export const ZONE_XATTR_INDX = 14;
export const ZONE_FS = 16;
export const TYPE_INODE = 4;
export const TYPE_XATTR = 8;
export const TYPE_DIRENT = 12;
export const TYPE_READDIR = 16;
export const TYPE_LINK_BACKREF = 20;
export const TYPE_SYMLINK = 24;
export const TYPE_DATA_EXTENT = 28;
export const ZONE_LOCK = 20;
export const TYPE_RENAME = 4;
export const ZONE_LOG_TREES = 24;
export const ZONE_MOUNTED_CLIENT = 28;
export const ZONE_SRCH = 32;
export const TYPE_SRCH_LOG = 4;
export const TYPE_SRCH_BLOCKS = 8;
export const TYPE_SRCH_PENDING = 12;
export const TYPE_SRCH_BUSY = 16;
export const ZONE_FREE_EXTENT_BLKNO = 36;
export const ZONE_FREE_EXTENT_ORDER = 40;
export const ZONE_LOG_MERGE_STATUS = 44;
export const ZONE_LOG_MERGE_RANGE = 48;
export const ZONE_LOG_MERGE_REQUEST = 52;
export const ZONE_LOG_MERGE_COMPLETE = 56;
export const ZONE_LOG_MERGE_FREEING = 60;

export const ROOT_INO = 1;
/** Inodes and sequence numbers covered by one lock. */
export const INODE_GROUP_SIZE = 1024;
/** First inode number that is ever allocated. */
export const FIRST_FREE_INO = 1024;

// B-trees, 01 §10
export const BTREE_MAX_VAL_LEN = 896;
export const BTREE_MAX_HEIGHT = 20;
export const BTREE_VALUE_ALIGN = 8;
export const BTREE_HEADER_BYTES = 48;
export const BTREE_ITEM_BYTES = 56;
export const LEAF_ITEM_HASH_NR = 1512;
export const LEAF_ITEM_HASH_BYTES = 3024;
export const LEAF_ITEM_HASH_OFF = 62512;
export const BTREE_LEAF_FREE = 62464;
export const BTREE_PARENT_FREE = 65488;
export const BTREE_JOIN_LOW = 16372;
/** Item flag: a deletion item (01 §12.1). */
export const ITEM_FLAG_DELETION = 1;

export const ALLOC_LIST_MAX_BLOCKS = 8185;
/** Flag of `alloc_list_head` and `alloc_root` (01 §11.5). */
export const ALLOC_FLAG_LOW = 1;

export const SRCH_ENTRY_MAX_BYTES = 26;
export const SRCH_PARENT_REFS = 4094;
export const SRCH_BLOCK_SAFE_BYTES = 65398;
export const SRCH_BLOCK_ENTRIES_BYTES = 65424;
export const SRCH_LOG_BLOCK_LIMIT = 16;
export const SRCH_COMPACT_ORDER = 2;
export const SRCH_COMPACT_NR = 4;

export const DATA_ALLOC_MAX_ZONES = 1024;

export const FOREST_BLOOM_NRS = 3;
export const FOREST_BLOOM_BITS = 523968;
export const FOREST_BLOOM_FUNC_BITS = 19;

export const NAME_MAX = 255;
export const LINK_MAX = 2147483647;
export const DIRENT_FIRST_POS = 2;
export const DIRENT_LAST_POS = 0xffff_ffff_ffff_fffen;
/** Symlink target bytes including the NUL. */
export const SYMLINK_MAX_SIZE = 4096;
export const XATTR_MAX_NAME_LEN = 255;
export const XATTR_MAX_VAL_LEN = 65535;
export const XATTR_PART_SIZE = 896;
export const XATTR_MAX_PARTS = 74;
export const XATTR_TOTL_MAX_DIGITS = 23;

/** `super_block.flags`: this is the metadata device. */
export const SUPER_FLAG_META_DEV = 1;

/** `log_trees.flags` (01 §13.1). */
export const LOG_TREES_FINALIZED = 1;
/** `mounted_client_btree_val.flags` (01 §13.2). */
export const MOUNTED_CLIENT_QUORUM = 1;

// `srch_compact.flags`, 01 §13.3
export const SRCH_COMPACT_LOG = 0x01;
export const SRCH_COMPACT_SORTED = 0x02;
export const SRCH_COMPACT_DELETE = 0x04;
export const SRCH_COMPACT_DONE = 0x10;
export const SRCH_COMPACT_ERROR = 0x20;

/** `log_merge_request.flags`: the root is one of several last-level parents. */
export const LOG_MERGE_REQUEST_SUBTREE = 1;
/** `log_merge_complete.flags`. */
export const LOG_MERGE_COMP_ERROR = 1;
export const LOG_MERGE_COMP_REMAIN = 2;

// `inode.flags`, 01 §15.1
export const INODE_FLAG_TRUNCATE = 1;
export const INODE_FLAG_RETENTION = 2;

// `dirent.type`, 01 §15.3
export const DT_FIFO = 0;
export const DT_CHR = 1;
export const DT_DIR = 2;
export const DT_BLK = 3;
export const DT_REG = 4;
export const DT_LNK = 5;
export const DT_SOCK = 6;
export const DT_WHT = 7;

// `data_extent_val.flags`, 01 §15.7
export const SEF_OFFLINE = 1;
export const SEF_UNWRITTEN = 2;

// `quota_rule_val`, 01 §15.9
export const QUOTA_OP_INODE = 0;
export const QUOTA_OP_DATA = 1;
export const QUOTA_RULE_TOTL_COUNT = 1;
export const QUOTA_SOURCE_LITERAL = 0;
export const QUOTA_SOURCE_PROJ = 1;
export const QUOTA_SOURCE_UID = 2;
export const QUOTA_SOURCE_GID = 3;
export const QUOTA_NAME_SELECT = 1;

// Quorum block events, 01 §9
export const QUORUM_EVENT_BEGIN = 0;
export const QUORUM_EVENT_TERM = 1;
export const QUORUM_EVENT_ELECT = 2;
export const QUORUM_EVENT_FENCE = 3;
export const QUORUM_EVENT_STOP = 4;
export const QUORUM_EVENT_END = 5;
export const QUORUM_EVENT_NR = 6;

// `inet_addr.family`, 01 §4
export const AF_NONE = 0;
export const AF_IPV4 = 1;
export const AF_IPV6 = 2;

/** Volume option number of `data_alloc_zone_blocks`, and the least value it may have (01 §8.5). */
export const VOLOPT_DATA_ALLOC_ZONE_BLOCKS = 0;
export const VOLOPT_NR = 64;
export const DATA_ALLOC_ZONE_BLOCKS_MIN = 1048576;
