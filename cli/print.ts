/** `scoutfs print`: the metadata of a device as text (05 §13). */

import { printVolume } from "../fs/print.ts";
import { openDevice } from "../fs/sys/device.ts";
import { useFastCrc32c } from "../fs/sys/crc.ts";
import { type CommandSpec, UsageError } from "./command.ts";
import { Output, printError } from "./output.ts";

export const command: CommandSpec = {
  setup(c) {
    c.argument("[meta-device]", "metadata device or image file")
      .option(
        "-S, --skip-likely-huge",
        "leave out free extents, search files and the items of the filesystem",
      )
      .action(async (path, options) => {
        if (path === undefined) throw new UsageError("must provide metadata device path argument");
        await useFastCrc32c();
        const dev = openDevice(path, { write: false });
        const output = new Output();
        try {
          printVolume(dev, {
            skipLikelyHuge: options.skipLikelyHuge === true,
            out: (text) => output.write(text),
            warn: printError,
          });
        } finally {
          output.flush();
          dev.close();
        }
      });
  },
};
