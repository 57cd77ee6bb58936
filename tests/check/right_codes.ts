/**
 * The right code of each damage of the corpora: of those named here at least one must be reported,
 * whatever follows from the damage elsewhere. The first row whose pattern fits the change's name
 * counts; every change has one. Names are `PLACE STRUCTURE.FIELD CHANGE` for fields, and as
 * tests/fsck/damage.ts makes them for blocks, references and items.
 */

/** A reference that leads nowhere, or to another block than the one meant. */
const LEADS_ASTRAY = "ref-range block-magic block-fsid block-seq block-blkno meta-block-twice";

export const RIGHT_CODES: readonly (readonly [name: RegExp, codes: string])[] = [
  // Blocks of 64 KiB: the header (01 §5.2).
  [/(btree|alloc_list|srch|bloom)_(block|parent)\.hdr\.crc/, "block-crc"],
  [/(btree|alloc_list|srch|bloom)_(block|parent)\.hdr\.magic/, "block-magic"],
  [/(btree|alloc_list|srch|bloom)_(block|parent)\.hdr\.fsid/, "block-fsid"],
  [/(btree|alloc_list|srch|bloom)_(block|parent)\.hdr\.seq/, "block-seq"],
  [/(btree|alloc_list|srch|bloom)_(block|parent)\.hdr\.blkno/, "block-blkno"],
  // Super blocks (01 §8).
  [/super_block\.hdr\.crc/, "super-crc"],
  [/super_block\.hdr\.magic/, "super-magic"],
  [/super_block\.hdr\.fsid/, "super-pair"],
  [/super_block\.hdr\.blkno/, "super-blkno"],
  [/super_block\.id/, "super-reserved"],
  [/super_block\.fmt_vers/, "super-version"],
  [/super_block\.flags/, "super-role super-flags"],
  [/super_block\.uuid/, "super-pair"],
  [/super_block\.seq/, "super-seq log-tree merge"],
  [/super_block\.next_ino/, "super-next-ino inode-next-ino"],
  [/super_block\.inode_count/, "inode-count"],
  [/super_block\.total_(meta|data)_blocks/, "super-size"],
  [/super_block\.qconf\.version/, "super-slot-version"],
  [/super_block\.qconf\.slots/, "super-slot super-no-slots"],
  [/super_block\.volopt/, "super-option"],
  // Quorum blocks (01 §9).
  [/quorum_block\.hdr/, "quorum-block"],
  [/quorum_block\./, "quorum-event"],
  // Btree blocks (01 §10).
  [/btree_block\.item_root/, "btree-avl"],
  [/btree_block\.nr_items/, "btree-items btree-avl"],
  [/btree_block\.total_item_bytes/, "btree-total"],
  [/btree_block\.mid_free_len/, "btree-free btree-value"],
  [/btree_block\.(level|pad)/, "btree-header"],
  [/btree_item\.node_(parent|left|right|height)/, "btree-avl"],
  [/btree_item\.(node_pad|pad|key\.pad)/, "btree-key"],
  [/ parent btree_item\.key/, "btree-parent btree-key btree-avl"],
  // By chance an item can keep its place in the hash table.
  [/btree_item\.key/, "btree-hash btree-key btree-avl item-key-fields extent-key"],
  [/btree_item\.seq/, "item-seq item-stale merge totl"],
  [/btree_item\.val_off/, "btree-value"],
  // A byte more or less of an entry's name or an attribute's value can fit into the same room.
  [/btree_item\.val_len/, "btree-value item-length entry-twins-differ xattr symlink"],
  // An item without a value can be a deletion in a log tree: then it is missing; and the reverse.
  [/btree_item\.flags/, "btree-flags index-missing index-extra orphan-extra item-length"],
  [/ parent block_ref\.(blkno|seq)/, LEADS_ASTRAY],
  // Roots, lists and files where they are referred to.
  [/log_merge_complete\.root\./, `merge root-pad ${LEADS_ASTRAY}`],
  [/log_merge_request\.(root|logs_root)\./, "merge meta-leak"],
  [/log_merge_freeing\.root\.pad/, "root-pad"],
  [/log_merge_freeing\.root\./, `root-height btree-header meta-leak ${LEADS_ASTRAY}`],
  [/srch_compact\.(out|in\[\d\]\.sfl)\./, `srch-file srch-compaction ${LEADS_ASTRAY}`],
  [/srch_file\.(ref\.(blkno|seq)|height|blocks)/, `srch-file srch-compaction ${LEADS_ASTRAY}`],
  [/srch_file\./, "srch-file srch-compaction"],
  [/(avail|freed|alloc)(\[\d\])?\.flags/, "alloc-flags"],
  [/(avail|freed)(\[\d\])?\.(total_nr|first_nr)/, "list-count log-tree merge"],
  [/data_(avail|freed|alloc)\.total_len|meta_alloc\[\d\]\.total_len/, "extent-total log-tree"],
  [/(avail|freed|alloc|root|log_merge|mounted_clients)(\[\d\])?(\.root)?\.pad/, "root-pad"],
  [/\.height/, "root-height btree-header log-tree ref-range"],
  [
    /(root|log_merge|mounted_clients|bloom_ref)(\.ref)?\.(blkno|seq)/,
    `root-height log-tree ${LEADS_ASTRAY}`,
  ],
  [/(avail|freed)(\[\d\])?\.ref\.(blkno|seq)/, `list-count ${LEADS_ASTRAY}`],
  // Allocators (01 §11).
  [/alloc_list_block\.next/, `list-shape ${LEADS_ASTRAY}`],
  [/alloc_list_block\.(start|nr)/, "list-shape list-count ref-range meta-leak"],
  [/alloc_list_block\.blknos/, "ref-range meta-free-twice meta-free-in-use meta-leak merge"],
  // Log trees (01 §13.1), clients.
  [/log_trees\.(rid|nr)/, "item-key"],
  [/log_trees\.inode_count_delta/, "inode-count"],
  [/log_trees\.max_item_seq/, "item-seq"],
  [/log_trees\.flags/, "log-tree owner-unknown"],
  [/log_trees\./, "log-tree"],
  [/mounted_client_btree_val\./, "mounted-client"],
  [/bloom_block\./, "bloom-count"],
  // Search (01 §13.3, §14).
  [/srch_compact\.in\[\d\]\.(blk|pos)/, "srch-compaction meta-leak meta-free-in-use"],
  [/srch_compact\.id/, "item-key srch-compaction"],
  [/srch_compact\./, "srch-compaction"],
  [/srch_block\./, "srch-file"],
  [/srch_parent\.refs/, `srch-file ${LEADS_ASTRAY}`],
  // A log merge (01 §13.4).
  [/log_merge_range\.start/, "item-key item-unmerged merge"],
  [/log_merge_range\.end/, "item-unmerged merge"],
  [/log_merge_request\.rid/, "item-key owner-unknown"],
  [/log_merge_(request|complete|freeing)\.seq/, "item-key"],
  [/log_merge_freeing\.key\.pad/, "merge"],
  [/log_merge_freeing\.key/, "meta-leak meta-free-in-use"],
  [/log_merge_\w+\./, "merge item-unmerged"],
  // Items of the filesystem (01 §15).
  [/quota_rule_val\./, "quota-rule"],
  [/xattr_totl_val\./, "totl"],
  [/ inode\.size/, "inode-size inode-field"],
  [/ inode\.meta_seq/, "index-missing index-extra"],
  [/ inode\.data_seq/, "index-missing index-extra inode-field"],
  [/ inode\.(online|offline)_blocks/, "inode-blocks extents-missing"],
  [/ inode\.next_readdir_pos/, "dir-next-pos inode-field"],
  [/ inode\.next_xattr_id/, "xattr-next-id inode-field"],
  [/ inode\.nlink/, "inode-nlink"],
  [/ inode\.(mode|rdev|flags|(a|c|m|cr)time)/, "inode-field"],
  [/ dirent\.(hash|pos|pad|name)/, "entry-value entry-twins-differ"],
  [/ dirent\.ino/, "entry-twins-differ"],
  [/ dirent\.type/, "entry-type entry-twins-differ"],
  [/ xattr\./, "xattr"],
  [/data_extent_val\.blkno/, "extent-outside extent-item data-leak data-block-twice"],
  [/data_extent_val\./, "extent-item inode-blocks extents-missing"],
  // Whole blocks.
  [/^block \d+: (one bit|checksum|torn)/, "block-crc"],
  [/^block \d+: wiped/, "block-magic"],
  [/^block \d+: of another time/, "block-seq"],
  [/^block \d+: (swapped with|a copy of) /, "block-blkno"],
  // References in parents: a missing child leaks with all below it, if no merge has replaced it.
  [/ level \d block \d+: first child missing/, "meta-leak index-missing"],
  [
    / level \d block \d+: (second child is the first|first child is this block)/,
    "meta-block-twice",
  ],
  [/ level \d block \d+: children exchanged/, "btree-key"],
  // Items that are missing, extra or foreign, of each type in each tree.
  [/ item .*: one of an unknown type/, "item-zone item-key btree-key extent-key"],
  [/(alloc|avail|freed)\S* 36\.0 item .*: missing/, "extent-index"],
  [/(alloc|avail|freed)\S* 40\.0 item .*: missing/, "extent-index"],
  [/(alloc|avail|freed)\S* 36\.0 item .*: again/, "extent-overlap extent-key"],
  [/(alloc|avail|freed)\S* 40\.0 item .*: again/, "extent-index extent-range"],
  [/ 4\.[48] item .*: missing/, "index-missing index-extra"],
  [/ 4\.[48] item .*: again/, "index-extra"],
  [/ 8\.4 item .*: missing/, "orphan-missing"],
  [/ 8\.4 item .*: again/, "item-key-fields"],
  [/ 10\.4 item .*: again/, "quota-rule"],
  [/ 12\.0 item .*: (missing|again)/, "totl"],
  [/ 14\.0 item .*: missing/, "indx-missing"],
  [/ 14\.0 item .*: again/, "indx-extra"],
  // A directory has an older version below the missing one.
  [/ 16\.4 item .*: missing/, "inode-missing index-extra dir-next-pos"],
  [/ 16\.4 item .*: again/, "item-key-fields"],
  [/ 16\.8 item .*: missing/, "xattr xattr-headless totl srch-extra"],
  [/ 16\.8 item .*: again/, "xattr-id-twice xattr-name-twice xattr btree-key"],
  [/ 16\.12 item .*: missing/, "twin-without-entry"],
  [/ 16\.12 item .*: again/, "dir-pos-twice entry-value btree-key"],
  [/ 16\.(16|20) item .*: missing/, "entry-without-twin"],
  [/ 16\.(16|20) item .*: again/, "entry-value entry-twins-differ btree-key"],
  [/ 16\.24 item .*: (missing|again)/, "symlink"],
  [/ 16\.28 item .*: missing/, "extents-missing data-leak"],
  [/ 16\.28 item .*: again/, "extent-file-overlap extent-item btree-key"],
  [/^logs_root 24\.0 item .*: missing/, "meta-leak"],
  [/^srch_root 32\.\d+ item .*: missing/, "meta-leak"],
  [/^log_merge (44|56)\.0 item .*: missing/, "merge"],
  [/^log_merge (48|52)\.\d+ item .*: missing/, "item-unmerged"],
  [/^log_merge 60\.0 item .*: missing/, "meta-leak"],
  [/^(logs_root|mounted_clients|srch_root|log_merge) .* item .*: again/, "item-key"],
];

/** Numbers that nothing can have counted, in any field of the server's items. */
const TOO_LARGE = /^(logs_root|srch_root|log_merge) \d+\.\d+ (?!btree_item).* (top bit|ones)$/;

/** The codes of which one must be reported; null when nobody has said. */
export function rightCodes(name: string): readonly string[] | null {
  const codes = RIGHT_CODES.find(([pattern]) => pattern.test(name))?.[1].split(" ");
  if (codes === undefined) return null;
  return TOO_LARGE.test(name) ? [...codes, "item-number"] : codes;
}
