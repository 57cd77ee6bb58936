"""The programs of differential.py: calls of differential_calls.py and arguments, from a seed.

Names come from a small set, so that calls meet what others have made; a descriptor or a mapping is
named by a slot. Unusual arguments (limits, wrong ones) are sprinkled in.
"""

import os
import random
import stat

from differential_calls import NOW, OMIT

BIG = 1 << 20
# Who calls: uid, gid, further groups.
WHO = [(0, 0, []), (1001, 1001, []), (1002, 1002, [1001, 3000]), (1003, 3000, [])]

ODD_NAMES = [
    b"\xff\x01 \n", b"n" * 255, b"m" * 256, b"..", b".", "\u00e4\u65e5".encode(), b"-",
]
ODD_PATHS = [
    b"", b"x/" * 2047 + b"x", b"x/" * 2048 + b"xx", b"d0//f0", b"./f1", b"f0/.", b"f1/x",
]
ODD_TARGETS = [b"t" * 4095, b"t" * 4096, b"", b"l0", b"t/" * 1000, b"."]
ODD_XATTRS = [
    "user." + "a" * 250, "user." + "a" * 251, "trusted.x", "nonsense", "system.x", "security.x",
]
MODES = [0o777, 0o755, 0o644, 0o700, 0o600, 0, 0o2775, 0o1777, 0o4755, 0o6777]
SECONDS = [0, 1, -1, 1 - (1 << 31), (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 33]
OPEN_FLAGS = [
    (os.O_CREAT, 0.7), (os.O_EXCL, 0.1), (os.O_TRUNC, 0.15), (os.O_APPEND, 0.15),
    (os.O_NOFOLLOW, 0.1), (os.O_DIRECTORY, 0.03), (os.O_DIRECT, 0.15), (os.O_SYNC, 0.03),
    (os.O_DSYNC, 0.03), (os.O_NOATIME, 0.02), (os.O_PATH, 0.04),
]
ACCESS = [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR]
KINDS = [
    stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, 0,
    0o150000,
]
DEVICES = [
    0, os.makedev(1, 3), os.makedev(4095, (1 << 20) - 1), os.makedev(0, 255), os.makedev(1, 256),
]
ACLS = ["system.posix_acl_access", "system.posix_acl_default"]
NOBODY = 0xFFFFFFFF
# Of pwritev2: RWF_DSYNC, RWF_SYNC, RWF_APPEND.
WRITE_FLAGS = [0, 0, 0, 0, 2, 4, 0x10]


class Generator:
    """Draws a program from a seed."""

    def __init__(self, seed):
        self.r = random.Random(seed)
        # Allowed: times of stores to mappings move when the pages are written, whenever that is. So
        # every other program syncs each store, the rest does not look at times.
        self.timed = seed % 2 == 0
        # Allowed: who is not in its group loses S_ISGID of what he makes below a default ACL. So
        # programs have the one or the other.
        self.setgid = seed % 4 >= 2
        self.weights, self.makers = zip(*self.kinds())

    def name(self):
        r = self.r
        if r.random() < 0.04:
            return r.choice(ODD_NAMES)
        return b"%c%d" % (r.choice(b"ffffdddl"), r.randrange(5))

    def dir(self):
        depth = self.r.choice([0, 0, 0, 1, 1, 1, 2, 3])
        return b"".join(b"d%d/" % self.r.randrange(4) for _ in range(depth))

    def path(self):
        r = self.r
        if r.random() < 0.01:
            return r.choice(ODD_PATHS)
        p = self.dir() + self.name()
        return p + b"/" if r.random() < 0.03 else p

    def target(self):
        if self.r.random() < 0.05:
            return self.r.choice(ODD_TARGETS)
        return self.dir() + self.name().replace(b"..", b"x")

    def slot(self):
        return self.r.randrange(8)

    def size(self):
        r = self.r
        return r.choice([
            r.randrange(10), r.randrange(5000), 4096 * r.randrange(40), r.randrange(300000),
            4096 * r.randrange(40) + r.choice([0, 1, 4095]),
        ])

    def position(self):
        r = self.r
        if r.random() < 0.03:
            return r.choice([-1, 1 << 31, (1 << 32) + 5, 1 << 40, (1 << 43) - 4096])
        return r.choice([0, r.randrange(BIG), 4096 * r.randrange(256), r.randrange(9000)])

    def mode(self):
        r = self.r
        mode = r.randrange(0o10000) if r.random() < 0.1 else r.choice(MODES)
        return mode if self.setgid else mode & ~stat.S_ISGID

    def time(self):
        r = self.r
        if r.random() < 0.3:
            return 0, r.choice([OMIT, NOW])
        seconds = r.randrange(1 << 31) if r.random() < 0.1 else r.choice(SECONDS)
        # The last one is wrong.
        nanoseconds = r.choice([0, 5, 999999999, r.randrange(10**9)])
        return seconds, 1000000000 if r.random() < 0.02 else nanoseconds

    def owner(self):
        ids = [-1, 0, 1001, 1002, 1003, 3000, (1 << 31) + 7]
        # Allowed: the kernel lets anybody "change" an owner on FUSE to what it is.
        return self.r.choice(ids), self.r.choice(ids[1:])

    def xattr(self):
        r = self.r
        if r.random() < 0.05:
            return r.choice(ODD_XATTRS)
        return r.choice(["user.a", "user.b", "user.c", "trusted.t", "security.s"])

    def acl(self):
        """An access control list, mostly valid."""
        r = self.r
        entries = [(1, r.randrange(8), NOBODY)]
        for user in sorted(r.sample([1001, 1002, 1003], r.randrange(3))):
            entries.append((2, r.randrange(8), user))
        entries.append((4, r.randrange(8), NOBODY))
        for group in sorted(r.sample([1001, 3000], r.randrange(3))):
            entries.append((8, r.randrange(8), group))
        if len(entries) > 2 and r.random() < 0.95 or r.random() < 0.2:
            entries.append((16, r.randrange(8), NOBODY))
        entries.append((32, r.randrange(8), NOBODY))
        if r.random() < 0.1:
            r.shuffle(entries)
        if r.random() < 0.05:
            entries.pop()
        acl = (2 if r.random() < 0.98 else 1).to_bytes(4, "little")
        for tag, perm, id in entries:
            acl += tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + id.to_bytes(4, "little")
        return acl

    def flags(self):
        r = self.r
        flags = r.choice(ACCESS)
        for bit, probability in OPEN_FLAGS:
            if r.random() < probability:
                flags |= bit
        # FIFOs would wait for each other.
        return flags | os.O_NONBLOCK

    def kinds(self):
        """How often each call comes, and what draws its arguments."""
        r = self.r
        s, p, size, at, mode, any = (
            self.slot, self.path, self.size, self.position, self.mode, r.random,
        )
        of = r.choice
        slot3 = lambda: r.randrange(3)
        here = lambda: self.dir() + b"."
        lead = lambda: of([0, 0, 512, 1])
        follow = lambda: any() < 0.7
        tmp = lambda: os.O_TMPFILE | of([os.O_RDWR, os.O_WRONLY, os.O_RDONLY])
        status = lambda: of([0, os.O_APPEND, os.O_DIRECT, os.O_APPEND | os.O_DIRECT])
        length = lambda: of([0, -1, size(), size() + 1])
        value = lambda: of([0, 1, 100, 900, 3000, 20000, 65535])
        return [
            (14, lambda: ("open", s(), p(), self.flags(), mode())),
            (3, lambda: ("open", s(), here(), tmp() | of([0, 0, 0, os.O_EXCL]), mode())),
            (2, lambda: ("open", s(), here(), os.O_RDONLY | os.O_DIRECTORY, 0)),
            (6, lambda: ("close", s())),
            (1, lambda: ("setfl", s(), status() | os.O_NONBLOCK)),
            (4, lambda: ("read", s(), size())),
            (6, lambda: ("pread", s(), size(), at(), lead())),
            (8, lambda: ("write", s(), any(), size())),
            (10, lambda: ("pwrite", s(), any(), size(), at(), lead(), of(WRITE_FLAGS))),
            (3, lambda: ("lseek", s(), at(), r.randrange(3))),
            (3, lambda: ("lseek", s(), at(), of([os.SEEK_DATA, os.SEEK_HOLE, 9]))),
            (4, lambda: ("ftruncate", s(), at())),
            (3, lambda: ("truncate", p(), at())),
            (3, lambda: ("fallocate", s(), of([0, 1]), at() % (1 << 24), length())),
            (3, lambda: ("copy_range", s(), s(), at(), at(), size())),
            (2, lambda: ("sendfile", s(), s(), at(), size())),
            (2, lambda: ("splice", s(), s(), size())),
            (4, lambda: ("sync", s(), of([0, 0, 1, 2, 3]))),
            (3, lambda: ("map", slot3(), s(), of([4096, 70000, BIG]), any() < 0.8)),
            (4, lambda: ("load", slot3(), r.randrange(70000), size())),
            (4, lambda: ("store", slot3(), r.randrange(70000), size(), any(),
                         self.timed or any() < 0.2)),
            (2, lambda: ("unmap", slot3())),
            (5, lambda: ("link", p(), p(), follow())),
            (2, lambda: ("linkfd", s(), p())),
            (1, lambda: ("linkempty", s(), p())),
            (4, lambda: ("symlink", self.target(), p())),
            (2, lambda: ("readlink", p())),
            (7, lambda: ("unlink", p())),
            (3, lambda: ("rmdir", p())),
            (9, lambda: ("rename", p(), p(), of([0, 0, 0, 0, 1, 8, 3]))),
            (9, lambda: ("mkdir", p(), mode() | 0o500)),
            (3, lambda: ("mknod", p(), of(KINDS) | mode(), of(DEVICES))),
            (5, lambda: ("chmod", p(), mode())),
            (2, lambda: ("fchmod", s(), mode())),
            (5, lambda: ("chown", p(), *self.owner(), follow())),
            (2, lambda: ("fchown", s(), *self.owner())),
            (4, lambda: ("utimens", p(), self.time(), self.time(), follow())),
            (2, lambda: ("futimens", s(), self.time(), self.time())),
            (6, lambda: ("setxattr", p(), self.xattr(), any(), value(), of([0, 0, 0, 1, 2]),
                         follow())),
            (5, lambda: ("setacl", p(), of(ACLS[:1] if self.setgid else ACLS), self.acl())),
            (3, lambda: ("getxattr", p(), self.xattr(), of([None, None, 0, 10, 65536]))),
            (2, lambda: ("getxattr", p(), of(ACLS), None)),
            (3, lambda: ("removexattr", p(), of([self.xattr(), *ACLS]), follow())),
            (2, lambda: ("listxattr", p(), follow())),
            (4, lambda: ("access", p(), r.randrange(8), any() < 0.8)),
            (4, lambda: ("stat", p(), follow())),
            (4, lambda: ("fstat", s())),
            (4, lambda: ("list", here())),
            (2, lambda: ("umask", of([0, 0o22, 0o22, 0o77, 0o27]))),
            (1, lambda: ("limit", of([-1, -1, 0, 4096, 100000]))),
        ]

    def program(self, calls):
        """Pairs of an index of WHO and a call."""
        who = 0
        program = []
        for _ in range(calls):
            if self.r.random() < 0.1:
                who = self.r.choice([0, 0, 1, 2, 3])
            program.append((who, self.r.choices(self.makers, self.weights)[0]()))
        return program
