// Package image reads, checks and edits the image files of a CRIU dump.
//
// CRIU writes a dump as a directory of images: one or two magic numbers, then
// records, each a length and a protobuf message, sometimes followed by raw
// bytes. This package works on that wire format: whatever it does not edit,
// fields that it has never heard of included, stays the same byte for byte.
//
// Its nouns:
//
//   - An [Image] is one decoded file. [Decode] and [Image.Encode] are inverse.
//   - A [View] is a directory that looks like a dump but holds links to its
//     images, so that a restore can be given edited copies of a few of them
//     while the dump itself is never changed.
//
// The format was read in CRIU 4.2 (criu/image.c, criu/image-desc.c,
// criu/include/magic.h, images/*.proto). It has been stable since CRIU 1.6,
// but for the pagemap: up to 4.1 the number of pages is field 2 of an entry,
// from 4.2 on it is field 5. Both are understood.
//
// Nothing here needs a privilege, starts a process or looks at the system
// beyond the files it is given. Every parser may be handed hostile bytes: it
// answers with an error wrapping [wire.ErrMalformed] and allocates no more than a
// small multiple of the size of the file.
//
// # Mapped memory
//
// [View.MapMemory] has CRIU map a process's memory from the pages images instead of copying it:
// package memory tells what that is good for. The images of a process that was not forked stay
// CRIU's own, byte for byte, so CRIU can also be given them as they are, to copy, and nothing is
// written twice. Tried and left were:
//
//   - a file for each process with its memory at the addresses' own offsets. It needs a second
//     write of everything, or a page server of our own between CRIU and the disk, and memory
//     that was never there would be memory of a file;
//   - reflinks. Few file systems have them.
//
// The price is that a mapping comes back in pieces. Pieces are bounded, and short runs copied.
// What else is copied [Copied] lists; a process with less than 1 MiB to map is copied, since its
// guard would cost it more. When what changed outweighs what is mapped, or there are more than 8
// files, [View.CopyMemory] makes a dump whole before it is committed: after the thaw or, in a
// hibernation, while nobody waits.
//
// An app that was never restored has nothing mapped, so each of its dumps is whole. The kernel's
// soft-dirty bits, which CRIU uses with --track-mem and a parent dump, are not enough to do
// better. They tell which pages were written to, and not which addresses have another page now:
// mremap moves page tables as they are (mm/mremap.c, move_normal_pmd), and the huge zero page,
// which a read after MADV_DONTNEED finds, is clean (mm/huge_memory.c, set_huge_zero_page). With
// Linux 6.1 and CRIU 4.2.1, memory that had been moved by whole 2 MiB onto older memory came back
// as the older one, and memory that had been dropped came back with its old data for zeros, both
// without a word.
//
// # The guard
//
// Mapped memory behaves as anonymous memory, but for calls that drop pages, which would bring
// the file's back and not zeros, and for calls that make a mapping longer. So each process with
// such memory gets a guard: a seccomp filter in its images, ahead of its own filters, that
// refuses these calls for ranges that meet mapped memory, and for no others. See guardFilter.
// Programs fall back on what they do on kernels without these calls. V8 and Chromium's
// PartitionAlloc end instead, so what they insist on is copied: see insistence. A dump takes the
// guard of the restore before out again.
//
// What a program can see of it: "Seccomp: 2" in /proc/PID/status, so that seccomp's strict mode
// can't be entered; more and other lines in maps; clean pages that are missing from core dumps
// (bit 2 of coredump_filter); EINVAL of UFFDIO_REGISTER and of PR_SET_MEMORY_MERGE, since KSM may
// put the zero page in the place of a changed one, which a dump leaves out. The guard outlives an
// exec, where its ranges mean nothing: a new program may be refused to drop or move a few
// addresses.
//
// # Memory of forked processes
//
// Processes that were forked share memory until one of them writes to it, but CRIU writes it
// once for each. So before a dump's memory goes to the store, [ShareMemory] compares each process
// with its parent, the parent's own parents, and up to four processes of the same parent. Where
// two have the same pages at the same addresses, the later one gets a mapping of the other one's
// pages image, as if it had been restored from that, and its own image keeps the pages that
// differ. All that follows is as for memory of earlier dumps.
//
// Pages are compared by content. Page frame numbers would have to be read while the app is
// frozen, and they tell nothing of what was swapped out. To read the pages twice costs less than
// their digests and the disk. An app whose memory is to be copied at each restore keeps CRIU's
// images whole: CRIU finds by itself what a child has in common with its parent, where both have a
// mapping with the same beginning and end (check_cow_vmas in criu/mem.c). It does not compare
// children with each other.
package image
