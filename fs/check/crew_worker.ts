/** A thread that helps to check a volume: does units of the jobs that it is sent (crew.ts). */

import { BlockDevice } from "../sys/device.ts";
import { useFastCrc32c } from "../sys/crc.ts";
import { RingReader } from "../sys/uring.ts";
import {
  EVENTS,
  type HelperJob,
  type HelperMessage,
  NEXT,
  STOPPED,
  takeUnit,
  tellEvent,
  tellOverflow,
  tellPresence,
} from "./crew.ts";
import { sentResult } from "./item_job.ts";
import { MetaSource } from "./source.ts";
import { UnitRunner } from "./unit_runner.ts";
import { SuperBlock } from "../../format/super.ts";

function work(j: HelperJob, post: (m: HelperMessage, transfer: ArrayBuffer[]) => void): void {
  tellPresence(j);
  const { job, units, ahead, shared } = j, { name, fd, size, isBlockDevice, direct } = j.meta;
  // The descriptor belongs to the thread that checks, which closes it.
  const meta = new BlockDevice(name, fd, size, isBlockDevice, direct, { write: false });
  const { fsidLo, fsidHi } = SuperBlock.at(new Uint8Array(job.superBlock)).hdr;
  const ring = RingReader.open(fd);
  const source = new MetaSource(meta, fsidLo, fsidHi, ring);
  const runner = new UnitRunner(source, job, (overflow) => {
    post({ is: "overflow", job: j.nr, overflow }, [overflow.records]);
    tellOverflow(shared);
  });
  while (Atomics.load(shared, STOPPED) === 0) {
    const seen = Atomics.load(shared, EVENTS);
    const unit = takeUnit(shared, units, ahead);
    if (unit !== null) {
      const result = sentResult(runner.run(unit, null));
      const { extents, directoryPairs, facts } = result;
      post({ is: "result", job: j.nr, result }, [extents, directoryPairs, facts.collected]);
      tellEvent(shared);
    } else if (Atomics.load(shared, NEXT) >= units) break;
    else Atomics.wait(shared, EVENTS, seen);
  }
  ring?.close();
}

/** The isolate's own side of a Worker. */
const scope = self as unknown as { onmessage: ((e: MessageEvent<MessagePort>) => void) | null };

scope.onmessage = ({ data: port }) => {
  const ready = useFastCrc32c();
  port.onmessage = async ({ data }: MessageEvent<HelperJob>) => {
    try {
      await ready;
      work(data, (message, transfer) => port.postMessage(message, transfer));
    } catch (e) {
      const message = e instanceof Error ? e.message : String(e);
      port.postMessage({ is: "failed", message } satisfies HelperMessage);
      tellEvent(data.shared);
    }
  };
};
