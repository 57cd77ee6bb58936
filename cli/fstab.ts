/**
 * The second device of a filesystem of which only one was named: fsck(8) hands its helper one device,
 * and mount lines name the data device first, the metadata device as the option metadev_path.
 */

import { EINVAL } from "../format/errno.ts";
import { FsError } from "../fs/errors.ts";

export interface DevicePair {
  readonly meta: string;
  readonly data: string;
}

/** Tags that name a device in fstab, and where udev keeps links for them. */
const TAGS: readonly (readonly [tag: string, folder: string])[] = [
  ["UUID=", "by-uuid"],
  ["LABEL=", "by-label"],
  ["PARTUUID=", "by-partuuid"],
  ["PARTLABEL=", "by-partlabel"],
  ["ID=", "by-id"],
];

/** Both devices of the filesystem that `device` belongs to, by fstab. Throws FsError. */
export function devicesOf(device: string): DevicePair {
  const path = Deno.env.get("LIBMOUNT_FSTAB") ?? "/etc/fstab";
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (e) {
    throw new FsError(EINVAL, `${path}: ${e instanceof Error ? e.message : e}`);
  }
  const wanted = realPath(device);
  for (const pair of scoutfsLines(text)) {
    if (realPath(pair.data) === wanted || realPath(pair.meta) === wanted) return pair;
  }
  throw new FsError(
    EINVAL,
    `${device}: its other device is not known: no line of ${path} mounts it as scoutfs with ` +
      "metadev_path=PATH; name both: scoutfs fsck META-DEVICE DATA-DEVICE",
  );
}

/** The devices of all scoutfs lines of an fstab that name both (fstab(5)). */
export function scoutfsLines(text: string): DevicePair[] {
  const pairs: DevicePair[] = [];
  for (const line of text.split("\n")) {
    const fields = line.trim().split(/\s+/);
    const [spec, , type, options] = fields.map(unescape);
    if (line.trim().startsWith("#") || spec === undefined || options === undefined) continue;
    if (!(type ?? "").split(",").includes("scoutfs")) continue;
    const option = options.split(",").find((o) => o.startsWith("metadev_path="));
    if (option === undefined) continue;
    pairs.push({ data: pathOf(spec), meta: pathOf(option.slice("metadev_path=".length)) });
  }
  return pairs;
}

/** Blanks in fields are written as octal numbers. */
const unescape = (field: string): string =>
  field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));

function pathOf(spec: string): string {
  const tag = TAGS.find(([name]) => spec.startsWith(name));
  if (tag === undefined) return spec;
  const value = spec.slice(tag[0].length).replace(/^"(.*)"$/, "$1");
  return `/dev/disk/${tag[1]}/${value}`;
}

/** The path without links; as it is if there is nothing. */
function realPath(path: string): string {
  try {
    return Deno.realPathSync(path);
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return path;
    throw e;
  }
}
