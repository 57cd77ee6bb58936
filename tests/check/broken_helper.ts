/**
 * A helper of a check that takes a unit and then, as its address says, reports a failure, throws where
 * nobody catches it, or is gone.
 */

import {
  type HelperJob,
  type HelperMessage,
  takeUnit,
  tellEvent,
  tellPresence,
} from "../../fs/check/crew.ts";

interface Scope {
  onmessage: ((e: MessageEvent<MessagePort>) => void) | null;
  close(): void;
}
const scope = self as unknown as Scope;

scope.onmessage = ({ data: port }) => {
  port.onmessage = ({ data }: MessageEvent<HelperJob>) => {
    tellPresence(data);
    takeUnit(data.shared, data.units, data.ahead);
    switch (new URL(import.meta.url).search) {
      case "?throws":
        throw new Error("nobody catches this");
      case "?closes":
        scope.close();
        break;
      default:
        port.postMessage(
          { is: "failed", message: "this helper is broken" } satisfies HelperMessage,
        );
        tellEvent(data.shared);
    }
  };
};
