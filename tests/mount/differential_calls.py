"""The system calls of differential.py: each takes a side, one of the two filesystems, and its
arguments, and returns what must be alike on both. What may differ, for the format's specification
or FUSE has it so, is left out where it would be seen: comments that begin with "Allowed:".
"""

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import stat

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OMIT, NOW = (1 << 30) - 2, (1 << 30) - 1


class Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_int64), ("nsec", ctypes.c_int64)]


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def off(n):
    return ctypes.c_int64(n)


class Skip(Exception):
    """The call does not apply here, on either side."""


class Side:
    """One of the two filesystems, with the descriptors and mappings that the program opened."""

    def __init__(self, root, ours):
        self.root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.ours = ours
        self.fds = {}
        self.maps = {}
        # Inodes, of ours, that preallocation was asked for.
        self.preallocated = set()

    def fd(self, slot):
        if slot not in self.fds:
            raise Skip
        return self.fds[slot]

    def keep(self, slot, fd):
        if slot in self.fds:
            os.close(self.fds[slot])
        self.fds[slot] = fd

    def close(self):
        for m, _ in self.maps.values():
            m.close()
        for fd in [*self.fds.values(), self.root]:
            os.close(fd)


def data(seed, length):
    """Bytes that tell where they come from."""
    if length == 0:
        return b""
    one = hashlib.sha256(str(seed).encode()).digest() * 2
    return (one * (length // len(one) + 1))[:length]


def digest(b):
    return b if len(b) <= 16 else (len(b), hashlib.md5(b).hexdigest())


def facts(side, s):
    """What a stat must say alike on both sides; times are compared by whether they moved."""
    kind = stat.S_IFMT(s.st_mode)
    size = s.st_size
    if kind == stat.S_IFDIR:
        size = None  # Allowed: the sum of the names' lengths.
    elif kind == stat.S_IFLNK and side.ours:
        size -= 1  # Allowed: counts the target's final NUL.
    rdev = s.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    return (oct(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, size, rdev)


def set_flags(fd, flags):
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def c_open(side, slot, path, flags, mode):
    side.keep(slot, os.open(path, flags, mode))
    if flags & os.O_DIRECT and not flags & os.O_PATH and not side.ours:
        # Allowed: takes unaligned direct I/O as well.
        set_flags(side.fds[slot], fcntl.fcntl(side.fds[slot], fcntl.F_GETFL) & ~os.O_DIRECT)
    return stat.S_IFMT(os.fstat(side.fds[slot]).st_mode)


def c_close(side, slot):
    fd = side.fd(slot)
    del side.fds[slot]
    os.close(fd)


def c_setfl(side, slot, flags):
    set_flags(side.fd(slot), flags)
    if flags & os.O_DIRECT and not side.ours:
        set_flags(side.fd(slot), flags & ~os.O_DIRECT)
    return fcntl.fcntl(side.fd(slot), fcntl.F_GETFL) & ~os.O_DIRECT & ~0o100000


def c_read(side, slot, n):
    return digest(os.read(side.fd(slot), n))


def c_pread(side, slot, n, at, lead):
    """Into memory that is `lead` bytes off a page."""
    area = mmap.mmap(-1, n + 8192)
    with memoryview(area) as whole, whole[lead:lead + n] as part:
        got = os.preadv(side.fd(slot), [part], at)
        return digest(bytes(part[:got]))


def c_write(side, slot, seed, n):
    if stat.S_ISFIFO(os.fstat(side.fd(slot)).st_mode):
        raise Skip  # Allowed: the kernel does not tell FUSE that a FIFO's times changed.
    return os.write(side.fd(slot), data(seed, n))


def c_pwrite(side, slot, seed, n, at, lead, flags):
    area = mmap.mmap(-1, n + 8192)
    area[lead:lead + n] = data(seed, n)
    with memoryview(area) as whole, whole[lead:lead + n] as part:
        half = n // 2
        with part[:half] as one, part[half:] as two:
            return os.pwritev(side.fd(slot), [one, two], at, flags)


def c_lseek(side, slot, at, whence):
    if stat.S_ISDIR(os.fstat(side.fd(slot)).st_mode):
        raise Skip  # Allowed: positions in directories mean something only to their filesystem.
    if whence in (os.SEEK_DATA, os.SEEK_HOLE):
        os.fsync(side.fd(slot))
        if side.ours and os.fstat(side.fd(slot)).st_ino in side.preallocated:
            raise Skip  # Allowed: what was preallocated is a hole until it is written.
    return os.lseek(side.fd(slot), at, whence)


def c_ftruncate(side, slot, n):
    checked(libc.ftruncate(side.fd(slot), off(n)))


def c_truncate(side, path, n):
    checked(libc.truncate(path, off(n)))


def c_fallocate(side, slot, mode, at, n):
    checked(libc.fallocate(side.fd(slot), mode, off(at), off(n)))
    if side.ours:
        side.preallocated.add(os.fstat(side.fd(slot)).st_ino)


def c_copy_range(side, a, b, at, to, n):
    total = 0
    fa, fb = side.fd(a), side.fd(b)
    # How much one call copies is the kernel's affair.
    while total < n:
        try:
            got = os.copy_file_range(fa, fb, n - total, at + total, to + total)
        except OSError:
            if total == 0:
                raise
            break
        if got == 0:
            break
        total += got
    return total


def c_sendfile(side, a, b, at, n):
    if os.path.samestat(os.fstat(side.fd(a)), os.fstat(side.fd(b))):
        raise Skip  # What a file that is copied into itself holds then is anybody's guess.
    return os.sendfile(side.fd(b), side.fd(a), at, n)


def c_splice(side, a, b, n):
    if os.path.samestat(os.fstat(side.fd(a)), os.fstat(side.fd(b))):
        raise Skip
    r, w = os.pipe()
    try:
        got = os.splice(side.fd(a), w, min(n, 60000))
        os.close(w)
        w = -1
        return got, os.splice(r, side.fd(b), got) if got else 0
    finally:
        os.close(r)
        if w >= 0:
            os.close(w)


def c_sync(side, slot, how):
    fd = side.fd(slot)
    if how == 0:
        os.fsync(fd)
    elif how == 1:
        os.fdatasync(fd)
    elif how == 2:
        checked(libc.sync_file_range(fd, off(0), off(0), 7))
    else:
        checked(libc.syncfs(fd))


def c_map(side, key, slot, n, writable):
    fd = side.fd(slot)
    s = os.fstat(fd)
    n = min(n, s.st_size)
    if n == 0 or not stat.S_ISREG(s.st_mode):
        raise Skip
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    if key in side.maps:
        side.maps.pop(key)[0].close()
    side.maps[key] = (mmap.mmap(fd, n, mmap.MAP_SHARED, prot), writable)


def mapped(side, key, at, n):
    """The mapping and how much of [at, at + n) lies in the file: beyond is SIGBUS."""
    if key not in side.maps:
        raise Skip
    m, writable = side.maps[key]
    n = min(n, m.size() - at, len(m) - at)
    if n <= 0:
        raise Skip
    return m, writable, n


def c_load(side, key, at, n):
    m, _, n = mapped(side, key, at, n)
    return digest(m[at:at + n])


def c_store(side, key, at, n, seed, sync):
    m, writable, n = mapped(side, key, at, n)
    if not writable:
        raise Skip
    m[at:at + n] = data(seed, n)
    if sync:
        m.flush()


def c_unmap(side, key):
    if key in side.maps:
        side.maps.pop(key)[0].close()


def c_link(side, old, new, follow):
    os.link(old, new, follow_symlinks=follow)


def c_linkfd(side, slot, new):
    checked(libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % side.fd(slot), AT_FDCWD, new, 0x400))


def c_linkempty(side, slot, new):
    checked(libc.linkat(side.fd(slot), b"", AT_FDCWD, new, AT_EMPTY_PATH))


def c_symlink(side, target, new):
    os.symlink(target, new)


def c_readlink(side, path):
    return digest(os.readlink(path))


def c_unlink(side, path):
    os.unlink(path)


def c_rmdir(side, path):
    os.rmdir(path)


def c_rename(side, old, new, flags):
    checked(libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags))


def c_mkdir(side, path, mode):
    os.mkdir(path, mode)


def c_mknod(side, path, mode, rdev):
    os.mknod(path, mode, rdev)


def c_chmod(side, path, mode):
    os.chmod(path, mode)


def c_fchmod(side, slot, mode):
    os.fchmod(side.fd(slot), mode)


def c_chown(side, path, uid, gid, follow):
    os.chown(path, uid, gid, follow_symlinks=follow)


def c_fchown(side, slot, uid, gid):
    os.fchown(side.fd(slot), uid, gid)


def utimens(dirfd, path, a, m, flags):
    times = (Timespec * 2)(Timespec(*a), Timespec(*m))
    checked(libc.utimensat(dirfd, path, times, flags))


def explicit(s, a, m):
    """Times that were given are kept to the nanosecond."""
    atime = s.st_atime_ns if a[1] not in (OMIT, NOW) else None
    return atime, s.st_mtime_ns if m[1] not in (OMIT, NOW) else None


def c_utimens(side, path, a, m, follow):
    utimens(AT_FDCWD, path, a, m, 0 if follow else 0x100)
    return explicit(os.stat(path, follow_symlinks=follow), a, m)


def c_futimens(side, slot, a, m):
    utimens(side.fd(slot), None, a, m, 0)
    return explicit(os.fstat(side.fd(slot)), a, m)


def c_setxattr(side, path, name, seed, n, flags, follow):
    value = data(seed, n)
    try:
        same = os.getxattr(path, name, follow_symlinks=follow) == value
    except OSError:
        same = False
    if same:
        raise Skip  # Allowed: setting what is there already changes ctime.
    os.setxattr(path, name, value, flags, follow_symlinks=follow)


def c_setacl(side, path, name, value):
    os.setxattr(path, name, value)


def c_getxattr(side, path, name, room):
    if room is None:
        return digest(os.getxattr(path, name))
    area = ctypes.create_string_buffer(max(room, 1))
    n = checked(libc.getxattr(path, name.encode(), area, room))
    return n, area.raw[:n] if room else b""


def c_removexattr(side, path, name, follow):
    os.removexattr(path, name, follow_symlinks=follow)


def names_of(path, follow):
    # Allowed: trusted names are shown to everybody.
    names = os.listxattr(path, follow_symlinks=follow)
    return sorted(n for n in names if not n.startswith("trusted."))


def c_listxattr(side, path, follow):
    return names_of(path, follow)


def c_access(side, path, mode, effective):
    return os.access(path, mode, effective_ids=effective)


def c_stat(side, path, follow):
    return facts(side, os.stat(path, follow_symlinks=follow))


def c_fstat(side, slot):
    return facts(side, os.fstat(side.fd(slot)))


def c_list(side, path):
    entries = os.scandir(path)
    return sorted((e.name, e.is_dir(follow_symlinks=False), e.is_symlink()) for e in entries)


CALLS = {n[2:]: f for n, f in globals().items() if n.startswith("c_")}
