"""What applications expect of a file system (run in an empty directory of the mount): each check
fails with the line that did not hold. Started by posix_test.ts."""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct

libc = ctypes.CDLL(None, use_errno=True)
getdents64 = 61 if os.uname().machine == "aarch64" else 217


def fails(code, call, *args, **named):
    try:
        call(*args, **named)
    except OSError as e:
        assert e.errno == code, (e, errno.errorcode[code])
    else:
        raise AssertionError("no error, expected " + errno.errorcode[code])


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def renameat2(old, new, flags):
    return checked(libc.renameat2(-100, old.encode(), -100, new.encode(), flags))


def linkat(old, new):
    return checked(libc.linkat(-100, old.encode(), -100, new.encode(), 0x400))


def make(name, content=b""):
    with open(name, "wb") as f:
        f.write(content)


def read(name):
    with open(name, "rb") as f:
        return f.read()


def temporary_files():
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"abc")
    linkat(f"/proc/self/fd/{fd}", "tmp")
    os.close(fd)
    assert read("tmp") == b"abc"
    fd = os.open("u", os.O_CREAT | os.O_RDWR)
    os.unlink("u")
    os.write(fd, b"hello")
    assert os.pread(fd, 5, 0) == b"hello"
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def names():
    make("x")
    make("y")
    fails(errno.EEXIST, renameat2, "x", "y", 1)
    fails(errno.EINVAL, renameat2, "x", "y", 2)
    renameat2("x", "z", 1)
    fails(errno.ENAMETOOLONG, make, "n" * 256)
    make("n" * 255)
    os.unlink("n" * 255)
    os.symlink("t" * 4095, "long")
    assert len(os.readlink("long")) == 4095
    os.link("y", "y2")
    assert os.stat("y").st_nlink == 2
    os.unlink("y2")
    assert os.stat("y").st_nlink == 1
    before = os.stat(".").st_nlink
    os.mkdir("dd")
    assert os.stat(".").st_nlink == before + 1
    fails(errno.EISDIR, os.unlink, "dd")
    make("dd/f")
    fails(errno.ENOTEMPTY, os.rmdir, "dd")
    fails(errno.EINVAL, os.rename, "dd", "dd/sub")


def directories_change_while_read():
    os.mkdir("many")
    for i in range(2000):
        make(f"many/{i}")
    seen = 0
    with os.scandir("many") as entries:
        for e in entries:
            os.unlink(e.path)
            seen += 1
    assert seen == 2000 and os.listdir("many") == []


def getdents(fd, room=32768):
    """(name, position to go on from) of the next entries."""
    buffer = ctypes.create_string_buffer(room)
    end = checked(libc.syscall(getdents64, fd, buffer, room))
    entries, at = [], 0
    while at < end:
        _, position, length = struct.unpack_from("<QQH", buffer.raw, at)
        entries.append((buffer.raw[at + 19:at + length].split(b"\0")[0].decode(), position))
        at += length
    return entries


def directory_positions():
    names = [str(i) + "n" * 5 * i for i in range(36)]
    os.mkdir("positions")
    for name in names:
        make("positions/" + name)
    fd = os.open("positions", os.O_RDONLY)
    assert getdents(fd) == list(zip([".", "..", *names], range(1, 39)))
    for name in names[8:18]:
        os.unlink("positions/" + name)
    os.lseek(fd, 0, 0)
    entries = getdents(fd)
    # Each says where the next one is.
    assert [at for _, at in entries] == [*range(1, 10), *range(20, 39)]
    for (_, at), following in zip(entries, entries[1:]):
        os.lseek(fd, at, 0)
        assert getdents(fd)[0] == following
    os.lseek(fd, 0, 0)
    found = []
    while batch := getdents(fd, 260):
        found += batch
    assert found == entries
    os.lseek(fd, 1 << 60, 0)
    assert getdents(fd) == []
    os.close(fd)


def offsets_beyond_everything():
    fd = os.open("far", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"abc")
    for whence in os.SEEK_DATA, os.SEEK_HOLE:
        fails(errno.ENXIO, os.lseek, fd, -1, whence)
        fails(errno.ENXIO, os.lseek, fd, 1 << 62, whence)
    for at in 1 << 53, 1 << 62, (1 << 63) - 4096:
        assert os.pread(fd, 10, at) == b""
        fails(errno.EFBIG, os.pwrite, fd, b"x", at)
        fails(errno.EFBIG, os.ftruncate, fd, at)
    assert os.fstat(fd).st_size == 3
    os.close(fd)


def sparse_files():
    fd = os.open("sp", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x", 1 << 20)
    os.ftruncate(fd, 4 << 20)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
    assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 4096
    fails(errno.ENXIO, os.lseek, fd, 2 << 20, os.SEEK_DATA)
    os.posix_fallocate(fd, 0, 65536)
    assert os.fstat(fd).st_size == 4 << 20
    length, zero = ctypes.c_long(4096), ctypes.c_long(0)
    fails(errno.EOPNOTSUPP, lambda: checked(libc.fallocate(fd, 3, zero, length)))
    os.close(fd)
    make("tr", b"q" * 10000)
    os.truncate("tr", 5000)
    os.truncate("tr", 10000)
    assert read("tr") == b"q" * 5000 + b"\0" * 5000


def appending_and_direct():
    fd = os.open("ap", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"1")
    os.pwrite(fd, b"2", 0)
    os.close(fd)
    assert read("ap") == b"12"
    fd = os.open("di", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    out = mmap.mmap(-1, 8192)
    out[:] = b"z" * 8192
    assert os.write(fd, out) == 8192
    os.lseek(fd, 0, 0)
    back = mmap.mmap(-1, 8192)
    assert os.readv(fd, [back]) == 8192 and back[:] == out[:]
    os.close(fd)
    make("src", b"abc")
    a, b = os.open("src", os.O_RDONLY), os.open("cp", os.O_CREAT | os.O_WRONLY)
    assert os.copy_file_range(a, b, 3) == 3
    os.close(a)
    os.close(b)
    assert read("cp") == b"abc"


def mappings():
    fd = os.open("mm", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 8192)
    m = mmap.mmap(fd, 8192)
    m[5000] = 65
    assert os.pread(fd, 1, 5000) == b"A"
    os.pwrite(fd, b"B", 5001)
    assert m[5001] == 66
    m.flush()
    m.close()
    os.close(fd)
    assert read("mm")[5000:5002] == b"AB"


def readers_see_writers():
    make("rw", b"q" * 10000)
    r = os.open("rw", os.O_RDONLY)
    assert os.pread(r, 4, 0) == b"qqqq"
    w = os.open("rw", os.O_WRONLY)
    os.pwrite(w, b"wxyz", 0)
    assert os.pread(r, 4, 0) == b"wxyz"
    os.close(w)
    assert os.pread(r, 4, 0) == b"wxyz"
    os.close(os.open("rw", os.O_RDONLY | os.O_TRUNC))
    assert os.fstat(r).st_size == 0 and os.pread(r, 4, 0) == b""
    os.pwrite(w := os.open("rw", os.O_WRONLY), b"again", 0)
    os.close(w)
    w = os.open("rw", os.O_WRONLY | os.O_TRUNC)
    assert os.pread(r, 4, 0) == b""
    os.write(w, b"new")
    assert os.pread(r, 4, 0) == b"new"
    assert os.fstat(r).st_size == 3
    os.close(w)
    os.close(r)


def locks():
    fd = os.open("lk", os.O_CREAT | os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    fcntl.flock(fd, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        other = os.open("lk", os.O_RDWR)
        fails(errno.EAGAIN, fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fails(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(fd)


def attributes():
    make("su")
    os.chown("su", 1000, 1000)
    os.chmod("su", 0o6777)
    pid = os.fork()
    if pid == 0:
        os.setgid(1000)
        os.setuid(1000)
        os.write(os.open("su", os.O_WRONLY), b"x")
        os._exit(0)
    os.waitpid(pid, 0)
    assert stat.S_IMODE(os.stat("su").st_mode) == 0o777, oct(os.stat("su").st_mode)
    os.utime("su", ns=(123456789012345678, -987654321098765432))
    s = os.stat("su")
    assert (s.st_atime_ns, s.st_mtime_ns) == (123456789012345678, -987654321098765432)


def times_of_other_ages():
    for text, expected in [
        ("-1.5e9", -1500000000), ("1e15", 10**15), ("-1e15", -(10**15)),
        ("9e18", (1 << 53) - 1), ("-9e18", 1 - (1 << 53)),
    ]:
        seconds = int(float(text))
        make("age")
        times = (ctypes.c_long * 4)(seconds, 5, seconds, 999999999)
        checked(libc.utimensat(-100, b"age", times, 0))
        out = ctypes.create_string_buffer(256)
        checked(libc.statx(-100, b"age", 0, 0x7FF, out))
        clamped = seconds != expected
        for at, nanoseconds in (0x40, 5), (0x70, 999999999):
            found = struct.unpack_from("<qI", out.raw, at)
            assert found == (expected, 0 if clamped else nanoseconds), (text, found)
        os.chmod("age", 0o600)
        os.unlink("age")


def extended_attributes():
    make("xa")
    os.setxattr("xa", "user.big", b"v" * 65535)
    assert len(os.getxattr("xa", "user.big")) == 65535
    assert os.listxattr("xa") == ["user.big"]
    fails(errno.ENODATA, os.getxattr, "xa", "user.none")
    fails(errno.EEXIST, os.setxattr, "xa", "user.big", b"1", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, "xa", "user.new", b"1", os.XATTR_REPLACE)
    assert libc.listxattr(b"xa", ctypes.create_string_buffer(8), 8) == -1
    assert ctypes.get_errno() == errno.ERANGE
    os.removexattr("xa", "user.big")
    assert os.listxattr("xa") == []


def administrators_of_namespaces():
    """Root of a user namespace that anybody may make is nobody here."""
    os.mkdir("ns", 0o777)
    make("ns/f")
    os.chown("ns/f", 1001, 1001)
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(1001)
        os.setuid(1001)
        fails(errno.EPERM, os.setxattr, "ns/f", "scoutfs.hide.x", b"1")
        if libc.unshare(0x10000000) == 0:
            fails(errno.EPERM, os.setxattr, "ns/f", "scoutfs.hide.x", b"1")
        os.setxattr("ns/f", "user.x", b"1")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    os.setxattr("ns/f", "scoutfs.hide.x", b"1")


for check in [
    temporary_files,
    names,
    directories_change_while_read,
    directory_positions,
    offsets_beyond_everything,
    sparse_files,
    appending_and_direct,
    mappings,
    readers_see_writers,
    locks,
    attributes,
    times_of_other_ages,
    extended_attributes,
    administrators_of_namespaces,
]:
    check()
    print("held:", check.__name__)
