#!/usr/bin/env bash
# Linux 6.18: PAGEMAP_SCAN says "swapped" of pages that were never touched, on a host without swap.
#
# Expected: PAGE_IS_SWAPPED is for pages whose content is in swap (Documentation/admin-guide/mm/pagemap.rst).
# Who asks for PRESENT or SWAPPED, to save a process's memory, gets the pages that have content.
# Seen: in memory that a userfaultfd with UFFD_FEATURE_WP_ASYNC write-protects by UFFDIO_WRITEPROTECT, each page
# that was never touched is reported as swapped, and as not written, until the userfaultfd is closed.
# mincore(2) knows that nothing is there. A terabyte that was only reserved looks like one in swap.
#
# Why: UFFD_FEATURE_WP_ASYNC implies UFFD_FEATURE_WP_UNPOPULATED (fs/userfaultfd.c, userfaultfd_api), with
# which protection of a page that is not there is a marker in the page table; pagemap_page_category
# (fs/proc/task_mmu.c) takes each entry that is not present for swap.
#
# What snapctl does: it protects by PAGEMAP_SCAN itself (PM_SCAN_WP_MATCHING), and only pages that are there
# (snapshot/track), so that there are no markers.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
echo "Linux $(uname -r)"
cat >"$tmp/main.py" <<'P'
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
PAGE, N = 4096, 8
def ioctl(fd, request, arg):
    n = libc.ioctl(fd, ctypes.c_ulong(request), ctypes.byref(arg))
    assert n >= 0, os.strerror(ctypes.get_errno())
    return n
SCAN, API, REGISTER, PROTECT = 0xc0606610, 0xc018aa3f, 0xc020aa00, 0xc018aa06
PRESENT, SWAPPED, WRITTEN = 8, 16, 2
def categories(start):
    "what PAGEMAP_SCAN tells of each page"
    vec = (ctypes.c_uint64 * (3 * N))()
    arg = (ctypes.c_uint64 * 12)(96, 0, start, start + N * PAGE, 0, ctypes.addressof(vec), N, 0, 0, 0, PRESENT | SWAPPED, PRESENT | SWAPPED | WRITTEN)
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    n = ioctl(fd, SCAN, arg)
    os.close(fd)
    pages = ["nothing"] * N
    names = {PRESENT: "present", SWAPPED: "swapped", WRITTEN: "written"}
    for i in range(n):
        a, b, c = vec[3 * i:3 * i + 3]
        for p in range((a - start) // PAGE, (b - start) // PAGE):
            pages[p] = "+".join(name for bit, name in names.items() if c & bit)
    return pages
def show(what, start):
    vec = (ctypes.c_ubyte * N)()
    libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(N * PAGE), vec)
    print(f"{what}: mincore {''.join(str(v & 1) for v in vec)}, scan {' '.join(categories(start))}")
m = mmap.mmap(-1, N * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(m))
libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(N * PAGE), 15) # MADV_NOHUGEPAGE
m[0] = 1
show("one page written", start)
fd = libc.syscall(323, 0o2000000 | 1)
assert fd >= 0
ioctl(fd, API, (ctypes.c_uint64 * 3)(0xaa, 1 << 15, 0)) # UFFD_FEATURE_WP_ASYNC
ioctl(fd, REGISTER, (ctypes.c_uint64 * 4)(start, N * PAGE, 2, 0))
show("registered", start)
ioctl(fd, PROTECT, (ctypes.c_uint64 * 3)(start, N * PAGE, 1))
show("write-protected", start)
m[PAGE * 2 : PAGE * 2 + 1] = b"x"
show("another one written", start)
os.close(fd)
show("closed", start)
print("swap used by this process:", next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmSwap")), "kB")
P
want "pages" "one page written: mincore 10000000, scan present+written nothing nothing nothing nothing nothing nothing nothing
registered: mincore 10000000, scan present+written nothing nothing nothing nothing nothing nothing nothing
write-protected: mincore 10000000, scan present swapped swapped swapped swapped swapped swapped swapped
another one written: mincore 10100000, scan present swapped present+written swapped swapped swapped swapped swapped
closed: mincore 10100000, scan present+written nothing present+written nothing nothing nothing nothing nothing
swap used by this process: 0 kB" "$(python3 "$tmp/main.py")"
