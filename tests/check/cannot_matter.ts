/**
 * Fields that fsck cannot or need not judge, each with its reason. A pattern is matched against
 * `PLACE STRUCTURE.FIELD CHANGE` of the corruption corpus.
 */

export const CANNOT_MATTER: readonly (readonly [pattern: RegExp, reason: string])[] = [
  [
    /^data super_block\.(?!fmt_vers|uuid|flags|hdr\.(?!seq)|id)/,
    "the data device's super block is written by mkfs and never updated: all but identity is stale (01 §2.3)",
  ],
  [
    /^meta super_block\.hdr\.seq/,
    "only a count of super block writes: nothing depends on it (01 §5.3)",
  ],
  [/^meta super_block\.qconf\.version/, "a count of configuration changes; only 0 is wrong"],
  [
    /^meta super_block\.qconf\.slots\[\d+\]\.addr\.(addr|port)/,
    "an administrator's choice: any address and port that mkfs takes is a configuration",
  ],
  [
    /^meta super_block\.qconf\.slots\[\d+\]\.addr\.pad/,
    "garbage in volumes of the reference's mkfs (01 §8.4)",
  ],
  [/^meta super_block\.(seq|next_ino) \+1/, "a counter may be ahead of what was given out"],
  [/^meta super_block\.volopt\..*/, "an administrator's choice within its limits"],
  [/^slot \d+ quorum_block\.hdr\.seq/, "no reader checks it (01 §5.2)"],
  [
    /^slot \d+ quorum_block\.events\[\d\]\.(rid|term|ts\.sec|ts\.nsec|write_nr)/,
    "what a mount said of itself, nothing else knows better; write_nr within the block's is a valid order",
  ],
  [
    /btree_item\.seq (?!top bit|ones)/,
    "in fs_root and log trees a version: only its bound is known; no meaning in other trees (01 §12.1)",
  ],
  [/ parent btree_item\.seq/, "means nothing in a parent (01 §10.5), and nobody reads it"],
  [
    /btree_block\.mid_free_len (?!\+1)/,
    "may be smaller than the room that is there: freed values leave holes (01 §10.2)",
  ],
  [
    /^(logs_root|mounted_clients|srch_root) \d+\.\d+ btree_item\.node_height/,
    "a leaf of one item may have mkfs' inverted height (01 §10.3)",
  ],
  [
    /^fs_root parent btree_item\.key\./,
    "an upper bound may exceed the child's greatest key (01 §10.5)",
  ],
  [
    / inode\.(uid|gid|proj|version|data_version)/,
    "the user's, or a counter of which any value is right",
  ],
  [/ inode\.[acm]r?time\.(sec|nsec)/, "any time is possible; nanoseconds up to 999999999"],
  [
    / inode\.(next_readdir_pos|next_xattr_id)/,
    "may be ahead of what was given out; only directories use next_readdir_pos",
  ],
  [/ inode\.mode/, "permission bits are the user's"],
  [/ inode\.data_seq/, "only regular files are indexed by it (01 §15.2)"],
  [
    /log_trees\.(commit_trans_seq|max_item_seq)/,
    "an open transaction's may be anything below get_trans_seq; an upper bound may be higher",
  ],
  [
    /log_trees\.(meta|data)_avail\.flags/,
    "LOW is a hint that the server sets and clears (01 §11.5)",
  ],
  [/log_trees\.data_alloc_zone_blocks/, "bitmaps of older zone sizes may coexist (01 §11.6)"],
  [
    /mounted_client_btree_val\.(addr|flags|pad)/,
    "what a mount said of itself; garbage in pads (01 §13.2)",
  ],
  [/srch_block\.entries/, "a byte behind the entries in use is free space"],
  [
    /^srch_root 32\.12 srch_compact\.(out|in\[\d\]\.sfl)\./,
    "once a compaction deletes its inputs only their blocks count; its output is a file of its own",
  ],
  [
    /^srch_root 32\.12 srch_compact\.in\[\d\]\.(blk|pos)/,
    "progress beyond the end of an input that is freed, or of one that is a single block",
  ],
  [
    /^log_merge 56\.0 log_merge_complete\.(root|start|rid)/,
    "history once the completion is spliced into fs_root; its mount may be gone (03 §26.2)",
  ],
  [/^log_merge 60\.0 log_merge_freeing\.key\./, "any key of the same leaf says the same"],
];
