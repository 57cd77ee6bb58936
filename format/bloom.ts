/** Bloom blocks (01 §12.3): which lock ranges have items in a log tree. */

import { BlockHeader } from "./block.ts";
import { checkSize, getU64, setU64, View } from "./bytes.ts";
import { FOREST_BLOOM_BITS } from "./constants.ts";
import { bloomBits } from "./hash.ts";
import { Key } from "./key.ts";

/**
 * Fixed part of a bloom block; the bits follow (01 §12.3), 40 bytes.
 *
 *      0 block_header     hdr
 *     32 le64             total_set
 *     40 le64[8187]       bits
 */
export class BloomBlock extends View {
  static readonly SIZE = 40;
  get hdr(): BlockHeader {
    return new BlockHeader(this.v, this.o);
  }
  /** Number of bits set. */
  get totalSet(): number {
    return getU64(this.v, this.o + 32);
  }
  set totalSet(n: number) {
    setU64(this.v, this.o + 32, n);
  }
  test(bit: number): boolean {
    return (this.v.getUint8(this.o + 40 + (bit >> 3)) >> (bit & 7) & 1) !== 0;
  }
  /** Whether all three bits of a lock's start key are set. */
  testKey(start: Key): boolean {
    return bloomBits(start).every((bit) => this.test(bit));
  }
  /** Sets the bits of a lock's start key; returns how many were clear. */
  setKey(start: Key): number {
    let changed = 0;
    for (const bit of bloomBits(start)) {
      if (this.test(bit)) continue;
      const at = this.o + 40 + (bit >> 3);
      this.v.setUint8(at, this.v.getUint8(at) | 1 << (bit & 7));
      changed++;
    }
    if (changed > 0) this.totalSet += changed;
    return changed;
  }
}
checkSize(BloomBlock.SIZE, 32 + 8, "BloomBlock");

checkSize(BloomBlock.SIZE + FOREST_BLOOM_BITS / 8, 65536, "bloom_block with bits");
