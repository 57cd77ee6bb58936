/** A helper of a check that takes a unit and fails. */

import { type HelperJob, type HelperMessage, takeUnit, tellEvent } from "../../fs/check/crew.ts";

const scope = self as unknown as { onmessage: ((e: MessageEvent<MessagePort>) => void) | null };

scope.onmessage = ({ data: port }) => {
  port.onmessage = ({ data }: MessageEvent<HelperJob>) => {
    takeUnit(data.shared, data.units, data.ahead);
    port.postMessage({ is: "failed", message: "this helper is broken" } satisfies HelperMessage);
    tellEvent(data.shared);
  };
};
