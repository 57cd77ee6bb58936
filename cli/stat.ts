/** `scoutfs stat FILE`: the attributes of an inode that stat(2) does not show (05 §12.2). */

import { IOC_STAT_MORE, IocStatMore } from "../format/ioctl.ts";
import type { CommandSpec } from "./command.ts";
import { countField, printFields } from "./fields.ts";
import { IoctlError, OpenPath } from "./ioctl.ts";
import { printError } from "./output.ts";
import { UsageError } from "./command.ts";

export const command: CommandSpec = {
  setup(c) {
    c.argument("[file]", "file or directory of a mount")
      .option("-s, --single-field <field>", "print only the value of this field")
      .option("--json", "print one JSON object")
      .action((file, options) => {
        if (file === undefined) throw new UsageError("must provide path to file");
        using path = new OpenPath(file);
        const st = IocStatMore.alloc();
        try {
          path.ioctl(IOC_STAT_MORE, st.bytes);
        } catch (e) {
          // The reference's status is 0 here, and scripts may rely on it.
          if (!(e instanceof IoctlError)) throw e;
          printError(e.message);
          return;
        }
        const crtime = `${st.crtimeSec}.${String(st.crtimeNsec).padStart(9, "0")}`;
        printFields([
          countField("meta_seq", st.metaSeq),
          countField("data_seq", st.dataSeq),
          countField("data_version", st.dataVersion),
          countField("online_blocks", st.onlineBlocks),
          countField("offline_blocks", st.offlineBlocks),
          { name: "crtime", text: crtime, json: crtime },
        ], options);
      });
  },
};
