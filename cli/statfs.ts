/** `scoutfs statfs`: what statfs(2) does not show of a volume (05 §12.2). */

import { IOC_STATFS_MORE, IocStatfsMore } from "../format/ioctl.ts";
import type { CommandSpec } from "./command.ts";
import { countField, type Field, printFields } from "./fields.ts";
import { IoctlError, mountPath, OpenPath } from "./ioctl.ts";
import { printError } from "./output.ts";

function hexField(name: string, value: bigint): Field {
  const text = value.toString(16).padStart(16, "0");
  return { name, text, json: text };
}

export const command: CommandSpec = {
  setup(c) {
    c.option("-p, --path <path>", "any path of the mount (default: current directory)")
      .option("-s, --single-field <field>", "print only the value of this field")
      .option("--json", "print one JSON object")
      .action((options) => {
        using path = new OpenPath(mountPath(options.path));
        const st = IocStatfsMore.alloc();
        try {
          path.ioctl(IOC_STATFS_MORE, st.bytes);
        } catch (e) {
          // The reference's status is 0 here, and scripts may rely on it.
          if (!(e instanceof IoctlError)) throw e;
          printError(e.message);
          return;
        }
        printFields([
          hexField("fsid", st.fsid),
          hexField("rid", st.rid),
          countField("committed_seq", st.committedSeq),
          countField("total_meta_blocks", st.totalMetaBlocks),
          countField("total_data_blocks", st.totalDataBlocks),
        ], options);
      });
  },
};
