"""Mount a read-only copy of a folder in which each request takes as long as over a network. This needs root.

Usage: python -m benchmarks.slow_disk FOLDER MOUNT_POINT [--delay MS]

The mounted file system takes the place of NFS in measurements. It uses the kernel's FUSE protocol (linux/fuse.h,
version 7.31) on /dev/fuse, without a library. Several requests are answered at the same time, each after the delay. The
kernel caches names and attributes for 3 s, as an NFS client does, and contents until its caches are dropped.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import signal
import stat
import struct
import sys
import threading
import time
from pathlib import Path

THREADS = 32
MOST_READ = 2**20  # largest number of bytes in a request, like rsize of NFS
VALID = 3  # seconds for which the kernel caches names and attributes
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH = 1, 2, 3, 14, 15, 17, 18, 25
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 26, 27, 28, 29, 36, 38, 42
UNANSWERED = (FORGET, INTERRUPT, BATCH_FORGET)
ASYNC_READ, PARALLEL_DIROPS, MAX_PAGES = 1 << 0, 1 << 18, 1 << 22
KEEP_CACHE = 2
MNT_DETACH, MS_RDONLY = 2, 1


class SlowDisk:
    """Answers the kernel's requests for a folder, after a delay in seconds."""

    def __init__(self, folder: str, delay: float) -> None:
        self.delay, self.lock = delay, threading.Lock()
        self.paths = {1: folder}  # node number -> path
        self.nodes = {folder: 1}

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """Return the answer to a request. Raise OSError if the answer is an error."""
        if opcode == INIT:
            ahead = struct.unpack_from("<IIII", body)[2]
            flags = ASYNC_READ | PARALLEL_DIROPS | MAX_PAGES
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, ahead, flags, 64, 48, MOST_READ, 1, MOST_READ // 4096, 0, 0)
        if opcode in (RELEASE, RELEASEDIR):
            if opcode == RELEASE:
                os.close(struct.unpack_from("<Q", body)[0])
            return b""
        time.sleep(self.delay)
        path = self.paths[node]
        if opcode == LOOKUP:
            return self._entry(str(Path(path, os.fsdecode(body.rstrip(b"\0")))))
        if opcode == GETATTR:
            return struct.pack("<QII", VALID, 0, 0) + attributes(path)
        if opcode == OPEN:
            return struct.pack("<QII", os.open(path, os.O_RDONLY), KEEP_CACHE, 0)
        if opcode == READ:
            descriptor, offset, size = struct.unpack_from("<QQI", body)
            return os.pread(descriptor, size, offset)
        if opcode == OPENDIR:
            return struct.pack("<QII", 0, 0, 0)
        if opcode == READDIR:
            return directory(path, *struct.unpack_from("<QI", body, 8))
        if opcode == STATFS:
            return struct.pack("<QQQQQIIII24x", 2**30, 0, 0, 2**20, 0, 4096, 255, 4096, 0)
        if opcode in (FLUSH, DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "")

    def _entry(self, path: str) -> bytes:
        found = attributes(path)
        with self.lock:
            node = self.nodes.setdefault(path, len(self.nodes) + 1)
            self.paths[node] = path
        return struct.pack("<QQQQII", node, 0, VALID, VALID, 0, 0) + found

    def serve(self, device: int) -> None:
        """Answer requests until the file system is unmounted."""
        while True:
            try:
                request = os.read(device, MOST_READ + 2**16)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # the file system was unmounted
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            if opcode in UNANSWERED:
                continue
            try:
                code, content = 0, self.answer(opcode, node, request[40:])
            except OSError as error:
                code, content = -(error.errno or errno.EIO), b""
            try:
                os.writev(device, [struct.pack("<IiQ", 16 + len(content), code, unique), content])
            except OSError:  # the kernel has interrupted the request
                continue


def attributes(path: str) -> bytes:
    """Return a file's attributes as struct fuse_attr."""
    found = os.lstat(path)
    times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
    rest = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid, 0, 4096, 0)
    nanoseconds = (found.st_atime_ns % 10**9, found.st_mtime_ns % 10**9, found.st_ctime_ns % 10**9)
    return struct.pack("<6Q10I", found.st_ino, found.st_size, found.st_blocks, *times, *nanoseconds, *rest)


def directory(path: str, offset: int, size: int) -> bytes:
    """Return the entries of a directory in at most `size` bytes, beginning with the entry number `offset`."""
    content = b""
    for number, found in enumerate(sorted(os.listdir(path))[offset:], offset + 1):
        name, mode = os.fsencode(found), Path(path, found).lstat().st_mode
        entry = struct.pack("<QQII", number + 1, number, len(name), stat.S_IFMT(mode) >> 12) + name
        entry += bytes(-len(entry) % 8)
        if len(content) + len(entry) > size:
            break
        content += entry
    return content


def main(argv: list[str]) -> None:
    """Mount the copy, print `mounted`, and answer requests until SIGTERM or SIGINT. Then unmount it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument(
        "mount_point", metavar="MOUNT_POINT", help="empty folder on which the slow copy of FOLDER is mounted"
    )
    parser.add_argument(
        "--delay", type=float, default=1.0, metavar="MS", help="milliseconds of a request (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    library = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    settings = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={MOST_READ}"
    place = os.fsencode(options.mount_point)
    if library.mount(b"slow-disk", place, b"fuse", MS_RDONLY, settings.encode()):
        sys.exit(f"cannot mount {options.mount_point}: {os.strerror(ctypes.get_errno())}")

    def unmount(*_: object) -> None:
        library.umount2(place, MNT_DETACH)
        os._exit(0)

    signal.signal(signal.SIGTERM, unmount)
    signal.signal(signal.SIGINT, unmount)
    disk = SlowDisk(str(Path(options.folder).resolve()), options.delay / 1000)
    for _ in range(THREADS):
        threading.Thread(target=disk.serve, args=(device,), daemon=True).start()
    print("mounted", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
