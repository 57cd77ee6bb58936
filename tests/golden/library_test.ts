/** The library reads everything that the reference saw in volumes of its own making. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { toHex } from "../../format/bytes.ts";
import { openVolumeReader } from "../../mod.ts";
import { goldenImages, goldenTest } from "../helpers/golden.ts";
import { byPath, checkContents, checkLibrary, walkTree } from "../helpers/golden_library.ts";
import { latin1, type ManifestFile, readFileList, readManifest } from "../helpers/manifest.ts";

goldenTest(
  "library: features-v2 equals its manifest",
  () => checkLibrary(goldenImages("features-v2"), readManifest("features-v2")),
);

goldenTest("library: tall equals its manifest", () => {
  const { files: expected, rest } = readFileList("tall");
  const images = goldenImages("tall");
  const volume = openVolumeReader(images.meta, images.data);
  try {
    const files: ManifestFile[] = [];
    walkTree(volume, ".", 1, files);
    const prefix = "./";
    assert.deepEqual(files.sort(byPath), expected.sort(byPath));
    const inos = new Map(files.map((f) => [f.path, f.ino]));
    let checked = 0;
    for (const line of rest) {
      // Of files with many xattrs the manifest has a hash of getfattr's sorted lines.
      const m = /^-- (\S+) nxattrs (\d+) sha256\(.*\) ([0-9a-f]{64})/.exec(line);
      if (m === null) continue;
      const ino = inos.get(`${prefix}${m[1]}`) ?? inos.get(`${prefix}feat/${m[1]}`);
      assert.ok(ino !== undefined, line);
      const lines = [...volume.xattrs(ino)].map((x) => `${latin1(x.name)}=0x${toHex(x.value)}\n`);
      assert.equal(lines.length, Number(m[2]));
      const sum = createHash("sha256").update(lines.sort().join("")).digest("hex");
      assert.equal(sum, m[3], line);
      checked++;
    }
    assert.equal(checked, 3);
  } finally {
    volume.close();
  }
});

for (const name of ["fresh-v1", "fresh-v2", "fresh-3quorum", "fresh-zoned"] as const) {
  goldenTest(`library: ${name} holds only the root`, () => {
    const images = goldenImages(name);
    const volume = openVolumeReader(images.meta, images.data);
    try {
      assert.deepEqual([...volume.readdir(1)], []);
      assert.deepEqual([...volume.walk("meta_seq")], [{ seq: 0, ino: 1 }]);
      assert.equal(volume.inode(1).mode, 0o40755);
    } finally {
      volume.close();
    }
  });
}

goldenTest("library: crash holds everything that had been synced before the crash", () => {
  const images = goldenImages("crash");
  const manifest = readManifest("crash");
  const volume = openVolumeReader(images.meta, images.data);
  try {
    const files: ManifestFile[] = [];
    walkTree(volume, ".", 1, files);
    // The manifest is from after recovery; recovery changes nothing in the namespace.
    assert.deepEqual(files.sort(byPath), manifest.files.sort(byPath));
    checkContents(volume, manifest, new Map(files.map((f) => [f.path, f.ino])));
  } finally {
    volume.close();
  }
});
