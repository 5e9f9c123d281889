# A process with a lot of memory, and children that were forked with it. Commands come
# line by line over TCP, for one of them, of which 0 is the parent:
#
#   I digest               what its memory holds
#   I write SEED FROM N    write N pages from page FROM on
#   I fork                 have one more child, of the parent only
import hashlib, mmap, os, random, socket, sys

PAGE = 4096
pages = int(sys.argv[1]) * 256
data = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
# Or the kernel may make what a child allocates later a part of the same mapping. CRIU
# then takes it for another one than the parent's, when it copies memory.
data.madvise(mmap.MADV_DONTDUMP)
children = []


def write(seed, start, count):
    r = random.Random(seed)
    for i in range(start, start + count):
        data[i * PAGE:(i + 1) * PAGE] = r.randbytes(PAGE)


def command(words):
    if words[0] == "digest":
        return hashlib.sha256(data).hexdigest()
    if words[0] == "write":
        write(*map(int, words[1:]))
    if words[0] == "fork":
        fork()
    return "ok"


def serve(stream):
    for line in stream:
        target, *words = line.split()
        if target == "0":
            answer = command(words)
        else:
            child = children[int(target) - 1]
            child.write(" ".join(["0"] + words) + "\n")
            child.flush()
            answer = child.readline().strip()
        stream.write(answer + "\n")
        stream.flush()


def fork():
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        serve(theirs.makefile("rw"))
        os._exit(0)
    theirs.close()
    children.append(ours.makefile("rw"))


write(1, 0, pages)
for _ in range(int(sys.argv[2])):
    fork()
server = socket.create_server(("", 7000))
while True:
    serve(server.accept()[0].makefile("rw"))
