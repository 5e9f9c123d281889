"""An app whose heap grows, shrinks and is given back without a pause, and that
checks all that it reads of it. It answers a line on port 7000 with "ok STEPS",
or what was wrong."""

import array
import ctypes
import gc
import mmap
import os
import random
import socket
import threading
import zlib

steps = 0
wrong = None


def say(text):
    global wrong
    if wrong is None:
        wrong = text


def in_child(items):
    """A child sees the same, and changes it for itself."""
    pid = os.fork()
    if pid == 0:
        bad = any(zlib.crc32(data) != crc for data, crc in items)
        for data, _ in items:
            if isinstance(data, bytearray):
                data[:] = bytes(len(data))
        os._exit(1 if bad else 0)
    if os.waitpid(pid, 0)[1]:
        say("a child saw other memory")


def work(seed):
    global steps
    chance = random.Random(seed)
    libc = ctypes.CDLL(None)
    items, table = [], {}
    while wrong is None:
        size = chance.randrange(1 << chance.randrange(1, 20))
        kind = chance.randrange(4)
        if kind == 0:
            data = bytearray(size)
            if data.count(0) != size:
                say("a new bytearray of %d is not zero" % size)
            data[: size // 2] = chance.randbytes(size // 2)
        elif kind == 1:
            data = chance.randbytes(size)
        elif kind == 2:
            data = array.array("d", (chance.random() for _ in range(size % 2000)))
        else:
            data = mmap.mmap(-1, size + 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if data[:] != bytes(size + 1):
                say("new memory of %d is not zero" % size)
            data[: size // 2] = chance.randbytes(size // 2)
        items.append((data, zlib.crc32(data)))
        key = "key %d" % chance.randrange(20000)
        if table.get(key, len(key)) != len(key):
            say("%s has %r" % (key, table[key]))
        table[key] = len(key)
        data, crc = items[chance.randrange(len(items))]
        if zlib.crc32(data) != crc:
            say("memory of %d bytes is wrong" % len(data))
        if len(items) > 200:
            for data, crc in items:
                if zlib.crc32(data) != crc:
                    say("memory of %d bytes is wrong" % len(data))
            if chance.randrange(4) == 0:
                in_child(items)
            del items[: chance.randrange(200)]
            if chance.randrange(4) == 0:
                table.clear()
                gc.collect()
                if hasattr(libc, "malloc_trim"):
                    libc.malloc_trim(0)
        steps += 1


def main():
    listener = socket.create_server(("", 7000))
    threading.Thread(target=work, args=(1,), daemon=True).start()
    while True:
        conn, _ = listener.accept()
        with conn, conn.makefile("rw") as lines:
            for _ in lines:
                lines.write("ok %d\n" % steps if wrong is None else "error: %s\n" % wrong)
                lines.flush()


main()
