// Package guard keeps memory that is mapped from a file from behaving as a file's, by a seccomp
// filter in the images of each process that has such memory.
//
// Mapped memory behaves as anonymous memory, but for calls that drop pages, which would bring
// the file's back and not zeros, and for calls that make a mapping longer. So each process with
// such memory gets a guard: a seccomp filter in its images, ahead of its own filters, that
// refuses these calls for ranges that meet mapped memory, and for no others. See [Filter].
// Programs fall back on what they do on kernels without these calls. V8 and Chromium's
// PartitionAlloc end instead, so what they insist on is copied (memmap.Insistence). A dump takes the
// guard of the restore before out again.
//
// What a program can see of it: "Seccomp: 2" in /proc/PID/status, so that seccomp's strict mode
// can't be entered; more and other lines in maps; clean pages that are missing from core dumps
// (bit 2 of coredump_filter); EINVAL of UFFDIO_REGISTER and of PR_SET_MEMORY_MERGE, since KSM may
// put the zero page in the place of a changed one, which a dump leaves out. The guard outlives an
// exec, where its ranges mean nothing: a new program may be refused to drop or move a few
// addresses.
package guard
