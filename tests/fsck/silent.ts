/**
 * Changes of the sample volume that a check says nothing about, because they cannot be told from a
 * sound state. There are none that another structure contradicts.
 */

/** A pattern of names of changes, and why nothing is said about them. */
type Reasons = readonly (readonly [pattern: RegExp, reason: string])[];

/** What cannot be told from a sound state. */
export const SILENT: Reasons = [
  [/ parent btree_item\.key\./, "an upper bound may exceed the child's greatest key (01 §10.5)"],
  [
    /btree_item\.node_height zero/,
    "height 0 of a block of one or two items: mkfs' inverted heights (01 §10.3)",
  ],
  [/ srch_block\.entries \+1/, "length 9 of a number is read as 8 (01 §14.3)"],
  [
    /^(fs_root|log tree) 16\.4 inode\.next_(readdir_pos|xattr_id)/,
    "a counter may be ahead of what was given out; files have no positions",
  ],
  [/^fs_root 16\.4 inode\./, "the directory's newer version in a log tree hides it"],
  [
    /log_merge_request\.logs_root\./,
    "a snapshot that may reference blocks reused since (01 §13.4); of a request whose mount is gone only the range counts (03 §23)",
  ],
  [
    /log_merge_status\.next_range_key\./,
    "where to go on handing out ranges: any place is right that is beyond what is being merged",
  ],
  [
    /log_merge_(range|request)\.end\./,
    "no item of an input lies between the two keys, so the same is merged (sample_test.ts proves it)",
  ],
  [
    /log_trees\.(meta_avail|data_avail)\.flags \+1/,
    "the LOW flag is the server's advice to a client",
  ],
  [
    /log_trees\.(get_trans_seq|commit_trans_seq|max_item_seq|finalize_seq)/,
    "any value in its bounds",
  ],
  [/mounted_client_btree_val\.(addr\.(addr|port|pad)|pad|flags)/, "what the client said of itself"],
  [
    /^fs_root 10\.4 item .* missing/,
    "a quota rule more or less is the administrator's business",
  ],
  [
    /^fs_root 16\.4 item 16\.(1|1024|1025)\.4\.0\.0\.0: missing/,
    "a newer version is in a log tree",
  ],
  [
    /^fs_root 16\.8 item 16\.(2000\.8\.3470875006|2001\.8\.(293749181|818197795))\.[01]\.0: missing/,
    "an attribute of one part without tags: nothing else speaks of it",
  ],
  [
    /^(open|finalized) log tree 4\.[48] item .* \(deletion\): again/,
    "deleting what does not exist does nothing",
  ],
  [
    /^(fs_root|log tree) 16\.4 inode\.(size|flags)/,
    "a file may have any size; both flags are legal",
  ],
  [
    /log_merge_freeing\.key\.(second|third|fourth)/,
    "any key between the last freed leaf and the next says the same",
  ],
  [
    /srch_file\.(first|last)\./,
    "the reference leaves bounds of log files too narrow (03 T11): only informational",
  ],
  [
    /^srch_root 32\.12 srch_compact\.(out|in\[\d\]\.sfl)\./,
    "while inputs are being freed the output is a file already, and of the inputs only blocks count",
  ],
  [
    /log_merge_complete\.(root|rid)/,
    "a completion that has been spliced is history (03 §26.2); nobody asks who made it",
  ],
];
