/** Where the cluster code says what an administrator should know: one line, no newline. */
export type Log = (line: string) => void;
