package vet

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// Open files that CRIU 4.2 refuses only when the app stands still, or saves and can't
// restore. Each was tried.

var (
	threadFile  = regexp.MustCompile(`^/proc/([0-9]+)/task/([0-9]+)(/|$)`)
	processRoot = regexp.MustCompile(`^/proc/[0-9]+$`)
)

// oddLink judges a descriptor by its link.
func oddLink(link string) (hold.Verdict, bool) {
	if m := threadFile.FindStringSubmatch(link); m != nil && m[1] != m[2] {
		// Threads are made after the files are opened (pie/restorer.c, __export_restore_task).
		return hold.Refuse(hold.Other, "file of a thread, "+link+",",
			"the app must close it while it sleeps: CRIU opens it before the thread is there again"), true
	}
	if processRoot.MatchString(link) {
		// files-reg.c, check_path_remap, puts a slash and what follows it in memory after the name.
		return hold.Refuse(hold.Other, "directory of a process, "+link+",",
			"the app must close it while it sleeps: CRIU saves it by a wrong name"), true
	}
	return hold.Verdict{}, false
}

// oddInfo judges a descriptor by what /proc/PID/fdinfo/FD tells of it.
func oddInfo(pid, fd int, link string) (hold.Verdict, bool) {
	pipe, timer, process := strings.HasPrefix(link, "pipe:["), link == "anon_inode:[timerfd]", strings.HasPrefix(link, "anon_inode:[pidfd]") || strings.HasPrefix(link, "pidfd:")
	if !pipe && !timer && !process {
		return hold.Verdict{}, false
	}
	info, err := proc.FDInfo(pid, fd)
	if err != nil {
		return hold.Verdict{}, false // closed meanwhile
	}
	flags, _ := strconv.ParseUint(info["flags"], 8, 64)
	switch {
	case pipe && flags&unix.O_DIRECT != 0: // pipes.c, dump_one_pipe_data
		return hold.Refuse(hold.Other, "pipe in packet mode (O_DIRECT)", "the app must use a pipe without O_DIRECT, or a unix socket: CRIU can't save packets"), true
	case timer && (info["clockid"] == "8" || info["clockid"] == "9"): // timerfd.h, verify_timerfd
		return hold.Refuse(hold.Other, "timerfd of an alarm clock (CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM)",
			"the app must use the clock without ALARM: no timer wakes the host for an app that is asleep"), true
	case process && flags&unix.O_EXCL != 0: // pidfd.c, PIDFD_THREAD
		return hold.Refuse(hold.Other, "pidfd of a thread (PIDFD_THREAD)", "the app must close it while it sleeps: CRIU can't save it"), true
	}
	return hold.Verdict{}, false
}

// hugetlbfs is HUGETLBFS_MAGIC, linux/magic.h.
const hugetlbfs = 0x958458f6

// oddFile judges a descriptor that has a path.
func oddFile(pid, fd int, link string) (hold.Verdict, bool) {
	if !strings.HasPrefix(link, "/memfd:") {
		return hold.Verdict{}, false
	}
	var st unix.Statfs_t
	if err := unix.Statfs(proc.FDPath(pid, fd), &st); err != nil || st.Type != hugetlbfs {
		return hold.Verdict{}, false
	}
	return hold.Refuse(hold.Other, "memfd of huge pages (MFD_HUGETLB)", "the app must use one of ordinary pages, or close it while it sleeps"), true
}

// mostRemoved is how many bytes a file without a name may have on the disk: its content is
// saved while the app stands still. CRIU is told the same (snapshot/criu, DumpOptions).
const mostRemoved = 1 << 30

// largeRemoved judges a file that was removed while it is open (files-reg.c,
// dump_ghost_remap).
func largeRemoved(pid, fd int, link string) (hold.Verdict, bool) {
	if !strings.HasPrefix(link, "/") || !strings.HasSuffix(link, " (deleted)") {
		return hold.Verdict{}, false
	}
	var st unix.Stat_t
	if unix.Stat(proc.FDPath(pid, fd), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 0 || st.Blocks*512 <= mostRemoved {
		return hold.Verdict{}, false
	}
	return hold.Refuse(hold.Other, fmt.Sprintf("removed file %s with %d MiB", strings.TrimSuffix(link, " (deleted)"), st.Blocks*512>>20),
		fmt.Sprintf("the app must close it or cut it down to %d MiB: its content would have to be saved while the app stands still", mostRemoved>>20)), true
}

// unpublished tells of a file that was made without a name (O_TMPFILE), and may be meant to
// get one by linkat(2). CRIU makes it again as one that was deleted, which never gets one
// (fs/namei.c, vfs_link). Nothing tells whether that could be done before (O_EXCL).
func unpublished(pid, fd int, link string) (hold.Note, bool) {
	if !strings.HasSuffix(link, " (deleted)") || !strings.Contains(link, "/#") {
		return hold.Note{}, false
	}
	var st unix.Stat_t
	info, err := proc.FDInfo(pid, fd)
	if err != nil || unix.Stat(proc.FDPath(pid, fd), &st) != nil || st.Nlink > 0 {
		return hold.Note{}, false
	}
	flags, _ := strconv.ParseUint(info["flags"], 8, 64)
	if flags&unix.O_TMPFILE != unix.O_TMPFILE {
		return hold.Note{}, false
	}
	return hold.Note{
		Text: fmt.Sprintf("process %d has a file without a name (O_TMPFILE) in %s open as descriptor %d: its content stays, but it can't be given a name (linkat) afterwards",
			pid, link[:strings.LastIndex(link, "/#")+1], fd),
		Remedy: "if the program is to publish it, hibernate when it has",
	}, true
}
