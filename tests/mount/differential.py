"""The same system calls on two filesystems, every answer compared. Started by
differential_test.ts, or by hand:

    differential.py run OURS REFERENCE SEED CALLS    a random program below OURS and REFERENCE
    differential.py compare OURS REFERENCE           the two trees once more

A program is drawn from its seed alone, without looking at answers (differential_program.py), so
that any part of it can be run again: when an answer differs the program is cut down to the calls
that are needed for it. Compared are results, error numbers, bytes (differential_calls.py), which
facts and times moved, and at the end whole trees.
"""

import errno
import hashlib
import os
import resource
import shutil
import signal
import stat
import sys
import time

sys.dont_write_bytecode = True
from differential_calls import CALLS, Side, Skip, digest, facts, names_of
from differential_program import BIG, WHO, Generator

# Calls on a path whose result shows in stats: moved times are compared around them.
WATCHED = {
    "truncate", "ftruncate", "write", "pwrite", "copy_range", "sendfile", "link", "symlink",
    "unlink", "rmdir", "rename", "mkdir", "mknod", "chmod", "fchmod", "chown", "fchown", "setxattr",
    "setacl", "removexattr", "open", "linkfd", "store",
}


# The clock of most filesystems' times, whose ticks are some milliseconds long.
CLOCK_REALTIME_COARSE = 5


def become(who):
    uid, gid, groups = WHO[who]
    os.seteuid(0)
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)


def outcome(side, call):
    """The result of a call as something that can be compared."""
    name, *args = call
    try:
        return CALLS[name](side, *args)
    except Skip:
        return "skipped"
    except OSError as e:
        return errno.errorcode.get(e.errno, e.errno)
    except ValueError as e:
        return str(e)


def touched(side, call):
    """Times and facts of what a call names, before or after it, to see which moved."""
    os.fchdir(side.root)
    found = {}
    for what in call[1:]:
        try:
            if isinstance(what, int) and what in side.fds:
                found[what] = os.fstat(side.fds[what])
            elif isinstance(what, bytes) and len(what) < 4096:
                found[what] = os.lstat(what)
                found[what, "parent"] = os.stat(os.path.dirname(what.rstrip(b"/")) or b".")
        except (OSError, ValueError):
            pass  # It is not there, or not a name.
    return found


def outlast(before):
    """Waits until a change now gets other times than the last one of what was looked at."""
    newest = max((s.st_ctime_ns for s in before.values()), default=0)
    while 0 <= newest - time.clock_gettime_ns(CLOCK_REALTIME_COARSE) < 10**9:
        time.sleep(0.001)


def moved(side, call, before, after, timed):
    """Which facts and times differ between two looks."""
    result = []
    for what in before.keys() | after.keys():
        if what not in before or what not in after:
            result.append((str(what), what in before, what in after))
            continue
        b, a = before[what], after[what]
        if b.st_ino != a.st_ino:
            result.append((str(what), "another", facts(side, a)))
            continue
        times = [b.st_mtime_ns != a.st_mtime_ns, b.st_ctime_ns != a.st_ctime_ns]
        if call[0] in ("truncate", "ftruncate") and b.st_size == a.st_size:
            times = None  # Allowed: times change with a truncate that changes no size, too.
        result.append((str(what), facts(side, a), times if timed else None))
    return sorted(result, key=str)


class Both:
    """Two sides on which programs run."""

    def __init__(self, ours, reference, name, timed):
        self.timed = timed
        self.homes = [f"{ours}/{name}", f"{reference}/{name}"]
        self.sides = []
        for i, home in enumerate(self.homes):
            deep = f"{home}/1/2/3/4"
            os.makedirs(deep)
            os.chmod(deep, 0o777)
            self.sides.append(Side(deep, i == 0))

    def run(self, program):
        """The first call whose outcomes differ, with them; or None."""
        os.umask(0o22)
        try:
            for i, (who, call) in enumerate(program):
                difference = self.step(who, call)
                if difference is not None:
                    return i, who, call, *difference
            return None
        finally:
            become(0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            os.umask(0o22)

    def step(self, who, call):
        if call[0] == "umask":
            os.umask(call[1])
            return None
        if call[0] == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (call[1], -1))
            return None
        watched = call[0] in WATCHED
        answers = []
        for side in self.sides:
            if answers == ["skipped"] and call[0] == "lseek":
                return None
            before = touched(side, call) if watched else None
            if watched and self.timed and not side.ours:
                outlast(before)
            os.fchdir(side.root)
            # Allowed: preallocating leaves set-id bits.
            if who != 0 and call[0] != "fallocate":
                become(who)
            try:
                answer = outcome(side, call)
            finally:
                if who != 0:
                    become(0)
            if watched:
                answer = answer, moved(side, call, before, touched(side, call), self.timed)
            answers.append(answer)
        return None if answers[0] == answers[1] else answers

    def close(self, remove):
        for side in self.sides:
            side.close()
        os.chdir("/")
        if remove:
            for home in self.homes:
                shutil.rmtree(home)


def tree(root, ours):
    """Everything below a directory, by path."""
    side = type("", (), {"ours": ours})
    found = {}
    seen = {}
    for path, dirs, files in os.walk(os.fsencode(root)):
        dirs.sort()
        for name in [b"."] + sorted(dirs + files):
            full = os.path.join(path, name)
            s = os.lstat(full)
            kind = stat.S_IFMT(s.st_mode)
            what = [facts(side, s), names_of(full, False)]
            what.append([digest(os.getxattr(full, n, follow_symlinks=False)) for n in what[1]])
            if kind == stat.S_IFLNK:
                what.append(digest(os.readlink(full)))
            elif kind == stat.S_IFREG:
                # Huge files are sparse: only what is data counts.
                what.append(contents(full, s.st_size))
                what.append(seen.setdefault(s.st_ino, os.path.relpath(full, os.fsencode(root))))
            found[os.path.relpath(full, os.fsencode(root))] = what
    return found


def contents(path, size):
    h = hashlib.md5()
    fd = os.open(path, os.O_RDONLY)
    at = 0
    try:
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as e:
                assert e.errno == errno.ENXIO
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            position = start & ~4095
            while position < at:
                b = os.pread(fd, min(BIG, at - position), position)
                assert b, "the file ends within data"
                for i in range(0, len(b), 4096):
                    block = b[i:i + 4096]
                    if block.strip(b"\0"):
                        h.update(b"%d:" % (position + i) + block)
                position += len(b)
        return h.hexdigest()
    finally:
        os.close(fd)


def compare(ours, reference):
    a, b = tree(ours, True), tree(reference, False)
    differences = [p for p in sorted(a.keys() | b.keys()) if a.get(p) != b.get(p)]
    for p in differences[:5]:
        print(f"differs: {p}\n  {a.get(p)}\n  {b.get(p)}")
    return not differences


def shrink(ours, reference, program, timed):
    """As few calls as still lead to a difference."""
    tries = 0

    def differs(part):
        nonlocal tries
        tries += 1
        both = Both(ours, reference, f"shrink{tries}", timed)
        try:
            return both.run(part) is not None
        finally:
            both.close(True)

    step = len(program) // 2
    while step >= 1:
        i = 0
        while i < len(program):
            part = program[:i] + program[i + step:]
            if part and tries < 400 and differs(part):
                program = part
            else:
                i += step
        step //= 2
    return program


def run(ours, reference, seed, calls):
    generator = Generator(seed)
    program = generator.program(calls)
    timed = generator.timed
    both = Both(ours, reference, f"seed{seed}", timed)
    difference = both.run(program)
    if difference is None:
        both.close(False)
        same = compare(*both.homes)
        print(f"seed {seed}: {calls} calls", "alike" if same else "leave different trees")
        return same
    both.close(True)
    i, who, call, mine, other = difference
    print(f"seed {seed}, call {i}, as {WHO[who]}: {call}\n  ours      {mine}\n  reference {other}")
    least = shrink(ours, reference, program[:i + 1], timed)
    print("least program:", *least, sep="\n  ")
    both = Both(ours, reference, "least", timed)
    print("its end:", both.run(least))
    both.close(True)
    return False


def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if sys.argv[1] == "run":
        return run(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    return compare(sys.argv[2], sys.argv[3])


sys.exit(0 if main() else 1)
