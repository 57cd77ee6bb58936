/**
 * Page-aligned memory outside the JavaScript heap, for device buffers and FUSE requests. Its pages
 * stay where they are, cost nothing until touched, and are unmapped when the last view of them has
 * been collected; so an address handed to the kernel is valid while some view is referenced.
 */

import { assert } from "../errors.ts";
import { libc, sysError } from "./libc.ts";

export const PAGE = 4096;

/** Mappings from this size on consist of large pages where the system has some. */
const HUGE_PAGE = 2 << 20;

const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const MADV_HUGEPAGE = 14;

const mappings = new FinalizationRegistry<{ at: Deno.PointerObject; bytes: number }>((m) => {
  libc.munmap(m.at, BigInt(m.bytes));
});

/** `bytes` (rounded up to pages) of zeroed, page-aligned memory. */
export function mapMemory(bytes: number): Uint8Array<ArrayBuffer> {
  assert(bytes > 0, "mapping without bytes");
  const length = Math.ceil(bytes / PAGE) * PAGE;
  const at = libc.mmap(null, BigInt(length), PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0n);
  if (at === null || Deno.UnsafePointer.value(at) === 0xffffffffffffffffn) {
    throw sysError(`cannot map ${length} bytes of memory`);
  }
  // The kernel looks up each page that it copies from: with large ones that is a tenth of a read's
  // processor time less. A kernel without them refuses, which changes nothing else.
  if (length >= HUGE_PAGE) libc.madvise(at, BigInt(length), MADV_HUGEPAGE);
  const buffer = Deno.UnsafePointerView.getArrayBuffer(at, length);
  mappings.register(buffer, { at, bytes: length });
  return new Uint8Array(buffer);
}

/** Hands out page-aligned pieces of larger mappings; each lives while it is referenced. */
export class Arena {
  private chunk: Uint8Array | null = null;
  private used = 0;

  constructor(private readonly chunkBytes: number = 4 << 20) {}

  /** `bytes`, a multiple of 4096, zeroed and page aligned. */
  alloc(bytes: number): Uint8Array {
    assert(bytes > 0 && bytes % PAGE === 0, `buffer size ${bytes} is not a multiple of ${PAGE}`);
    if (bytes >= this.chunkBytes) return mapMemory(bytes);
    if (this.chunk === null || this.used + bytes > this.chunk.length) {
      this.chunk = mapMemory(this.chunkBytes);
      this.used = 0;
    }
    const piece = this.chunk.subarray(this.used, this.used + bytes);
    this.used += bytes;
    return piece;
  }
}
