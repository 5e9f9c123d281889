// Package track tells which pages of a running process's private anonymous memory were written since a
// moment, so that the memory can be copied while the process runs, and only what was written afterwards
// while it stands still.
//
// A [Tracker] write-protects pages asynchronously (userfaultfd(2), UFFD_FEATURE_WP_ASYNC): the first
// write to such a page lifts the protection, by the kernel alone and without anybody being asked, and
// costs the process some microseconds. Which pages are unprotected is read by PAGEMAP_SCAN
// (Documentation/admin-guide/mm/pagemap.rst), which protects them anew in the same step.
//
//	Start    the areas are registered
//	Collect  all pages, which are protected now; the caller copies them
//	Collect  those that were written meanwhile, which the caller copies again; and so on
//	         the processes are frozen
//	Scan     which pages are as they were copied (clean), and which were written since (dirty)
//	Close
//
// # What is in the process
//
// Nothing. The userfaultfd is made in the name of the process ([inject]), taken out and closed in it
// within the moment in which its threads stand still. When the Tracker is closed, or the daemon
// dies, the kernel ends the protection by itself (fs/userfaultfd.c, userfaultfd_release).
//
// # What is tracked
//
// The areas of memory that there are at Start, and of these only what images can map again (see package
// memmap): not stacks, locked memory, huge pages, code and the like. What is mapped later, or
// moved by mremap(2), is not tracked, since the kernel ends the registration of an area that is unmapped,
// moved or replaced (mm/mremap.c, mremap_userfaultfd_prep). [Tracker.Scan] goes by what is registered
// then, so that a page which was never collected at its address is never called clean.
//
// # Writes that the kernel does not see
//
// A write goes unseen if the kernel had looked up the page for it before Collect protected the page,
// and writes afterwards, without the page table: a read(2) with O_DIRECT or from some file systems
// (FUSE, 9p), process_vm_writev(2), ptrace(2). Such a call is over once its thread has been stopped. So
// between Collect and copying what it returned all threads that may do so have to stand still once,
// for a moment: the processes are frozen and thawed. What was under way is then in the copy, and what
// begins later is seen.
//
// What writes without a thread that could be stopped is left out: a process that has an io_uring, or a
// ring of asynchronous I/O (io_setup(2)). This is looked at after each Collect.
//
// Needs Linux 6.9 ([Supported]), CAP_SYS_PTRACE, and what package inject needs.
package track
