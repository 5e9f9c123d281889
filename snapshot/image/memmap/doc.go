// Package memmap has CRIU map the memory of processes from files instead of copying it.
//
// [Map] edits a view to that end: package snapshot/memory tells what it is good for. [Copy] is
// its inverse.
// [Measure] tells how much could be mapped, and [NewPlan] which memory of one process, and why not
// the rest. [Share] stores once what forked processes have in common.
//
// The images of a process that was not forked stay CRIU's own, byte for byte, so CRIU can also be
// given them as they are, to copy, and nothing is written twice. Tried and left were:
//
//   - a file for each process with its memory at the addresses' own offsets. It needs a second
//     write of everything, or a page server of our own between CRIU and the disk, and memory
//     that was never there would be memory of a file;
//   - reflinks. Few file systems have them.
//
// The price is that a mapping comes back in pieces. Pieces are bounded, and runs of less than four pages
// copied. What else is copied [Copied] lists; a process with less than 1 MiB to map, in runs of [MinRun]
// pages, is copied, since its guard would cost it more.
//
// What a program and its libraries have changed of their data, most of it addresses that the dynamic
// linker has made absolute, is mapped like anonymous memory. With it, and short runs, a redis of 1 GiB
// restored from a snapshot has 0.8 MiB of its own instead of 2.1, and the images of each restore are
// edited by writing a fourth of the pages.
//
// When what changed outweighs what is mapped, or there are more than 8
// files, [Copy] makes a dump whole before it is committed: after the thaw or, in a
// hibernation, while nobody waits.
//
// An app that was never restored has nothing mapped. Package ahead copies its memory while it runs, and
// [Complete] adds that to the dump afterwards. Of what CRIU writes, and of what is copied so, that
// which the app's last snapshot has is found by content, see below, and is not stored again. The kernel's
// soft-dirty bits, which CRIU uses with --track-mem and a parent dump, are not enough to do
// better. They tell which pages were written to, and not which addresses have another page now:
// mremap moves page tables as they are (mm/mremap.c, move_normal_pmd), and the huge zero page,
// which a read after MADV_DONTNEED finds, is clean (mm/huge_memory.c, set_huge_zero_page). With
// Linux 6.1 and CRIU 4.2.1, memory that had been moved by whole 2 MiB onto older memory came back
// as the older one, and memory that had been dropped came back with its old data for zeros, both
// without a word.
//
// # Memory of forked processes
//
// Processes that were forked share memory until one of them writes to it, but CRIU writes it
// once for each. So before a dump's memory goes to the store, [Share] compares each process
// with its parent, the parent's own parents, and up to four processes of the same parent. Where
// two have the same pages at the same addresses, the later one gets a mapping of the other one's
// pages image, as if it had been restored from that, and its own image keeps the pages that
// differ. All that follows is as for memory of earlier dumps.
//
// The app's last snapshot is one more relative, and the first: each process is compared with what that
// has of the process of the same number ([OpenEarlier]). If that is another process the two have
// nothing in common, and all that is lost is the time to find out. A snapshot builds on 8 files at
// most, those with the most pages, and on none of which the last one uses less than half, for files
// are kept whole; what else it has in common with the last one is stored again.
//
// Pages are compared by content. Page frame numbers would have to be read while the app is
// frozen, and they tell nothing of what was swapped out. To read the pages twice costs less than
// their digests and the disk. An app whose memory is to be copied at each restore keeps CRIU's
// images whole: CRIU finds by itself what a child has in common with its parent, where both have a
// mapping with the same beginning and end (check_cow_vmas in criu/mem.c). It does not compare
// children with each other.
package memmap
