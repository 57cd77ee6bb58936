/**
 * The extended attributes of one inode (01 §15.4): parts complete and of the right lengths, hashes
 * of names, ids, names unique, ACLs that mean something; what their tags stand for goes to the fact
 * book.
 *
 * Relies on: the parts of one inode in key order, so that those of an attribute are neighbours.
 * Guarantees: each attribute whose first part can be read has told what it stands for, once.
 */

import { type BlockBytes, KEY } from "../../format/btree_block.ts";
import { XATTR_MAX_NAME_LEN, XATTR_PART_SIZE } from "../../format/constants.ts";
import { fnv1a64Words, xattrNameHash } from "../../format/hash.ts";
import {
  isAclXattr,
  isSupportedXattr,
  parseIndxName,
  parseNumber,
  parseTags,
  parseTotlName,
  TAG_INDX,
  TAG_SRCH,
  TAG_TOTL,
} from "../ops/tags.ts";
import type { WalkContext } from "./context.ts";
import { FACT_INDX, FACT_SRCH, type FactBook, SIDE_SOURCE } from "./facts.ts";
import { isZero, joinWords, rawU64 } from "./raw.ts";
import { nameText } from "./text.ts";
import { isAclValue } from "./xattr_rules.ts";

const HEADER = 8;
/**
 * Bytes of a value that are kept: more than the longest number that a total can have. They lie in
 * the first part, as 8 + 255 + 32 bytes are below 896.
 */
const KEPT_VALUE = 32;

export class XattrCheck {
  #inoHi = 0;
  #inoLo = 0;
  #open = false;
  #hash = 0;
  #idHi = 0;
  #idLo = 0;
  /** Next part expected, and bytes that are still missing. */
  #nextPart = 0;
  #missing = 0;
  #broken = false;
  readonly #name = new Uint8Array(XATTR_MAX_NAME_LEN);
  readonly #value = new Uint8Array(KEPT_VALUE);
  #valueLen = 0;
  /** The value of an ACL that goes beyond the first part, as far as it is known. */
  #acl: Uint8Array | null = null;
  /** The first name with the current hash, and all of them when there are several. */
  #named = false;
  readonly #first = new Uint8Array(XATTR_MAX_NAME_LEN);
  #firstLen = 0;
  readonly #sameHash = new Set<string>();
  #ids: number[] = [];
  /** An attribute whose first part is gone: normal only while an inode is being deleted. */
  #headless = 0;
  #tagged = false;

  constructor(private readonly cx: WalkContext, private readonly facts: FactBook) {}

  begin(inoHi: number, inoLo: number): void {
    this.#inoHi = inoHi;
    this.#inoLo = inoLo;
    this.#open = false;
    this.#forgetNames();
    // Mostly empty already, which is quicker to see than to make so.
    if (this.#ids.length > 0) this.#ids.length = 0;
    this.#headless = 0;
    this.#hash = -1;
  }

  #forgetNames(): void {
    this.#named = false;
    if (this.#sameHash.size > 0) this.#sameHash.clear();
  }

  get #ino(): number {
    return joinWords(this.#inoHi, this.#inoLo);
  }

  #bad(why: string): void {
    this.cx.report.add("xattr", {
      ino: this.#ino,
      hash: Math.max(0, this.#hash).toString(16).padStart(8, "0"),
      id: joinWords(this.#idHi, this.#idLo),
      why,
    });
  }

  part(b: BlockBytes, item: number, off: number, len: number): void {
    const v = b.v, key = item + KEY;
    const hash = v.getUint32(key + 8, true), idLo = v.getUint32(key + 16, true);
    const idHi = v.getUint32(key + 20, true), part = v.getUint8(key + 24);
    const same = this.#open && hash === this.#hash && idLo === this.#idLo && idHi === this.#idHi;
    if (!same) {
      this.#close();
      if (hash !== this.#hash) this.#forgetNames();
      this.#open = true;
      this.#hash = hash;
      this.#idHi = idHi;
      this.#idLo = idLo;
      this.#nextPart = 0;
      this.#broken = false;
      this.#tagged = false;
      this.#acl = null;
      this.#ids.push(rawU64(v, key + 16));
    }
    if (v.getUint32(key + 12, true) !== 0) this.#bad("its hash is longer than 32 bits");
    if (this.#broken) return;
    if (part !== this.#nextPart) {
      if (this.#nextPart === 0) this.#headless++;
      else this.#bad(`part ${this.#nextPart} is missing`);
      this.#broken = true;
      return;
    }
    if (part === 0) this.#head(b, off, len);
    else this.#more(b, off, len);
    this.#nextPart++;
  }

  #head(b: BlockBytes, off: number, len: number): void {
    const v = b.v;
    const nameLen = len >= HEADER ? v.getUint8(off + 2) : 0;
    if (len < HEADER || nameLen < 1 || len < HEADER + nameLen) {
      this.#bad("its first part is too short for header and name");
      this.#broken = true;
      return;
    }
    const valLen = v.getUint16(off, true);
    const total = HEADER + nameLen + valLen;
    if (!isZero(b.buf, off + 3, 5)) this.#bad("padding is not zero");
    if (len !== Math.min(total, XATTR_PART_SIZE)) {
      this.#bad(`its first part has ${len} bytes of ${total}`);
      this.#broken = true;
      return;
    }
    this.#missing = total - len;
    this.#name.set(b.buf.subarray(off + HEADER, off + HEADER + nameLen));
    this.#valueLen = valLen;
    const here = b.buf.subarray(off + HEADER + nameLen, off + len);
    this.#value.set(here.subarray(0, KEPT_VALUE));
    const name = this.#name.subarray(0, nameLen);
    if (xattrNameHash(name) !== this.#hash) this.#bad("its hash is not that of its name");
    if (!isSupportedXattr(name)) this.#bad(`no attribute can be called ${nameText(name)}`);
    if (this.#named) {
      // Rare: two attributes of one hash.
      if (this.#sameHash.size === 0) {
        this.#sameHash.add(nameText(this.#first.subarray(0, this.#firstLen)));
      }
      const text = nameText(name);
      if (this.#sameHash.has(text)) {
        this.cx.report.add("xattr-name-twice", { ino: this.#ino, name: text });
      }
      this.#sameHash.add(text);
    } else {
      this.#named = true;
      this.#first.set(name);
      this.#firstLen = nameLen;
    }
    this.#tags(name);
    if (!isAclXattr(name)) return;
    if (this.#missing === 0) this.#checkAcl(here);
    else {
      this.#acl = new Uint8Array(valLen);
      this.#acl.set(here);
    }
  }

  #checkAcl(value: Uint8Array): void {
    if (!isAclValue(value)) this.#bad("its value is no ACL");
  }

  #more(b: BlockBytes, off: number, len: number): void {
    if (this.#missing === 0) {
      this.#bad(`part ${this.#nextPart} is more than its lengths say`);
      this.#broken = true;
      return;
    }
    if (len !== Math.min(this.#missing, XATTR_PART_SIZE)) {
      this.#bad(`part ${this.#nextPart} has ${len} bytes, ${this.#missing} are missing`);
      this.#broken = true;
      return;
    }
    if (this.#acl !== null) {
      this.#acl.set(b.buf.subarray(off, off + len), this.#acl.length - this.#missing);
    }
    this.#missing -= len;
    if (this.#missing === 0 && this.#acl !== null) this.#checkAcl(this.#acl);
  }

  #close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (!this.#broken && this.#missing > 0) {
      this.#bad(`${this.#missing} bytes are missing at its end`);
    }
  }

  /** `nextId` is the inode's next_xattr_id, −1 without an inode. */
  end(nextId: number, deleting: boolean): void {
    this.#close();
    if (this.#headless > 0 && !deleting && nextId >= 0) {
      this.cx.report.add("xattr-headless", { ino: this.#ino, count: this.#headless });
    }
    if (this.#ids.length === 0) return;
    const ids = this.#ids.length === 1 ? this.#ids : this.#ids.sort((a, b) => a - b);
    if (nextId >= 0 && (ids.at(-1) as number) >= nextId) {
      this.cx.report.add("xattr-next-id", { ino: this.#ino, id: ids.at(-1) as number, nextId });
    }
    for (let i = 1; i < ids.length; i++) {
      if (ids[i] === ids[i - 1]) {
        this.cx.report.add("xattr-id-twice", { ino: this.#ino, id: ids[i] as number });
      }
    }
  }

  #tags(name: Uint8Array): void {
    const tags = parseTags(name);
    if (tags < 0) {
      this.#bad(`no attribute can be called ${nameText(name)}`);
      return;
    }
    if (tags === 0 || this.#tagged) return;
    this.#tagged = true;
    if ((tags & TAG_SRCH) !== 0) {
      const { hi, lo } = fnv1a64Words(name);
      this.facts.add(
        FACT_SRCH,
        SIDE_SOURCE,
        hi,
        lo,
        this.#inoHi,
        this.#inoLo,
        this.#idHi,
        this.#idLo,
      );
    }
    if ((tags & TAG_TOTL) !== 0 && (tags & TAG_INDX) !== 0) {
      this.#bad("both a total and an index");
    } else if ((tags & TAG_TOTL) !== 0) this.#total(name);
    else if ((tags & TAG_INDX) !== 0) this.#index(name);
  }

  #total(name: Uint8Array): void {
    const parsed = parseTotlName(name);
    const value = this.#valueLen <= KEPT_VALUE
      ? parseNumber(this.#value.subarray(0, this.#valueLen))
      : null;
    if (parsed === null || value === null) {
      this.#bad("its name or value is no total");
      return;
    }
    this.facts.addTotal(SIDE_SOURCE, parsed.a, parsed.b, parsed.c, value, 1n);
  }

  #index(name: Uint8Array): void {
    const parsed = parseIndxName(name);
    if (parsed === null || this.#valueLen !== 0) {
      this.#bad("its name or value is no index");
      return;
    }
    const minorHi = Number(parsed.minor >> 32n), minorLo = Number(parsed.minor & 0xffff_ffffn);
    // major:minor:ino:xid laid over the key (01 §15.11).
    const shift = (hi: number, lo: number) => (hi << 24 | lo >>> 8) >>> 0;
    this.facts.add(
      FACT_INDX,
      SIDE_SOURCE,
      (parsed.major << 24 | minorHi >>> 8) >>> 0,
      shift(minorHi, minorLo),
      (minorLo << 24 | this.#inoHi >>> 8) >>> 0,
      shift(this.#inoHi, this.#inoLo),
      (this.#inoLo << 24 | this.#idHi >>> 8) >>> 0,
      shift(this.#idHi, this.#idLo),
      this.#idLo & 255,
    );
  }
}
