// Package paths proves that the paths by which an app is saved lead to the very files that
// its processes have.
//
// CRIU saves an open or mapped file, a working directory or a program by its path, and
// opens that path again. A path may have come to lead elsewhere: something was mounted
// over it, another file took its name, or it is one of /proc that is gone when CRIU opens
// it. CRIU refuses some of that, when the app stands still already and in words of its
// own, and some it finds out when the app is to come back.
//
//	Look   before the freeze: each path of each process, and what it leads to
//	Check  of the frozen app: the paths in the images that Look has not seen
//
// Look tells all that it finds, by process, descriptor and path, with a remedy. It leaves out
// files that CRIU or the holder keeps without a path: removed files, memfds, and files of
// which CRIU is told by name.
//
// It needs CAP_SYS_PTRACE, and Linux 5.8 for the numbers of mounts; before, nothing is
// found. Cost: some 10 us a descriptor before the freeze; while the app is frozen, next to
// nothing for what Look has seen, and 5 us for what it has not.
package paths

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/preflight"
)

// Seen is what [Look] has found: in the report are the paths that lead elsewhere.
type Seen struct {
	preflight.Report

	pids   []int
	also   map[string]int   // which of Unsupported says so
	others map[int][]string // the processes that have one of Unsupported, too
	good   map[place]bool   // paths that lead to what a process has
	strays []stray
}

// stray is a file on a mount that no process sees.
type stray struct {
	external string // CRIU's name for it
	inode    uint64
	err      *preflight.UnsupportedError
}

// place is a path on a mount.
type place struct {
	mount uint64
	name  string
}

// Look looks at the paths of processes, whose ids are given. They may run, and end,
// meanwhile. The error is that the system could not be looked at, or ctx's.
func Look(ctx context.Context, pids []int) (*Seen, error) {
	seen := &Seen{pids: pids, good: make(map[place]bool), also: make(map[string]int), others: make(map[int][]string)}
	t, err := openTree(pids)
	if err != nil {
		return nil, err
	}
	defer t.close()
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		uses, err := usesOf(pid)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("look at the files of process %d: %w", pid, err)
		}
		for _, u := range uses {
			seen.judge(t, u)
		}
	}
	seen.tellOthers()
	return seen, nil
}

// judge judges one use of a file.
func (s *Seen) judge(t *tree, u use) {
	name, err := os.Readlink(u.link)
	if err != nil || !path.IsAbs(name) {
		return // it is closed by now, or has no path
	}
	var have unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, u.link, unix.AT_STATX_DONT_SYNC, wanted, &have); err != nil {
		return // likewise
	}
	at := place{have.Mnt_id, name}
	root := t.byMount[have.Mnt_id]
	var what, remedy string
	switch {
	case s.good[at] || isTerminal(&have):
		return
	case root == nil:
		if t.whole && !isKernels(name) && !isQueue(u.link) {
			s.strays = append(s.strays, stray{
				fmt.Sprintf("file[%x:%x]", have.Mnt_id, have.Ino), have.Ino, // files-reg.c, dump_one_reg_file
				u.unsupported(name, "which is on a mount that no process of the app sees any more", "have the program leave or close it, or mount it again"),
			})
		}
		return
	case root.proc[have.Mnt_id]:
		what, remedy = root.judgeProc(name, &have, u.descriptor)
	default:
		what, remedy = root.judge(name, &have)
	}
	if what == "" {
		s.good[at] = true
		return
	}
	e := u.unsupported(name, what, remedy)
	i, known := s.also[e.What]
	if !known {
		s.also[e.What] = len(s.Unsupported)
		s.Unsupported = append(s.Unsupported, e)
		return
	}
	s.others[i] = append(s.others[i], strconv.Itoa(u.pid))
}

// tellOthers completes what was found in several processes: mostly it was inherited.
func (s *Seen) tellOthers() {
	for i, pids := range s.others {
		if len(pids) > mostOthers {
			pids = append(pids[:mostOthers:mostOthers], "...")
		}
		s.Unsupported[i].What += "; so has process " + strings.Join(pids, ", ")
	}
}

// mostOthers is how many other processes are told.
const mostOthers = 10

func (u use) unsupported(name, what, remedy string) *preflight.UnsupportedError {
	return &preflight.UnsupportedError{
		PID: u.pid, Name: comm(u.pid), What: fmt.Sprintf("%s (%s), %s", u.how, strings.TrimSuffix(name, deleted), what), Remedy: remedy,
	}
}

// Strays joins an error for each file that [Look] has found on a mount that no process
// sees, but for those that CRIU is told of by name, since they are held or kept: CRIU finds
// no others (files-reg.c, dump_one_reg_file: "Can't lookup mount"). Files with some inodes, which no process
// maps anew, count only if they are in external: else they are not mapped any more.
func (s *Seen) Strays(external []string, inodes []uint64) error {
	var errs []error
	for _, stray := range s.strays {
		if !slices.Contains(external, stray.external) && !slices.Contains(inodes, stray.inode) {
			errs = append(errs, stray.err)
		}
	}
	return errors.Join(errs...)
}

// isKernels tells whether a name is one of the kernel's for a file that is on no mount.
func isKernels(name string) bool {
	for _, prefix := range []string{"/memfd:", "/secretmem", "/dmabuf:", "/SYSV", "/dev/zero", "/[aio]", "/anon_hugepage", "/drm mm object", "/i915"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// isQueue tells of a POSIX message queue. What mq_open(2) opens is on a mount of the
// kernel's own (ipc/mqueue.c, do_mq_open), and is held, or refused, by package hold.
func isQueue(link string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(link, &fs) == nil && fs.Type == mqueueMagic
}

const mqueueMagic = 0x19800202 // ipc/mqueue.c, MQUEUE_MAGIC

// wanted is what is asked of statx(2).
const wanted = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID

// deleted is what the kernel writes behind the name of a removed file.
const deleted = " (deleted)"

// isTerminal tells of what CRIU saves as a terminal: 5 is the major number of /dev/tty and
// /dev/ptmx, 136 the first of pseudo-terminals (Documentation/admin-guide/devices.txt).
func isTerminal(st *unix.Statx_t) bool {
	return uint32(st.Mode)&unix.S_IFMT == unix.S_IFCHR && (st.Rdev_major == 5 || st.Rdev_major >= 136 && st.Rdev_major <= 143)
}

// same tells whether two are one file.
func same(a, b *unix.Statx_t) bool {
	return a.Ino == b.Ino && a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor
}

const (
	remedyHidden = "unmount what lies over it, or have the program close it"
	remedyClose  = "have the program close it, or open it again"
)

// judge says what is wrong with a path; nothing is if it is empty.
func (r *root) judge(name string, have *unix.Statx_t) (what, remedy string) {
	if have.Nlink == 0 {
		return "", "" // CRIU saves the content (files-reg.c, dump_ghost_remap)
	}
	var now unix.Statx_t
	err := r.stat(name, &now)
	switch {
	case err == nil && now.Mnt_id != have.Mnt_id:
		// files-reg.c, dump_one_reg_file: "Open files on overmounted mounts are not
		// supported yet", or check_path_remap: "Unaccessible path opened".
		return "over which something was mounted since", remedyHidden
	case err == nil && !same(&now, have):
		if uint32(have.Mode)&unix.S_IFMT == unix.S_IFREG && have.Mnt_id == r.mount && !strings.HasSuffix(name, deleted) {
			return "", "" // replaced on the host: package hostfile keeps it
		}
		return "whose name another file has now", remedyClose
	case errors.Is(err, unix.ENOENT):
		return r.judgeLink(name, have)
	case errors.Is(err, unix.ENOTDIR):
		return "whose directory is none any more", remedyClose
	default:
		return "", "" // it is as it was, or nobody can say
	}
}

// judgeLink judges a file whose name is gone, and that has another one. CRIU gives it one
// in the same directory, or the next that is there (files-reg.c, create_link_remap).
func (r *root) judgeLink(name string, have *unix.Statx_t) (what, remedy string) {
	kept := strings.TrimSuffix(name, deleted)
	for dir := path.Dir(kept); ; dir = path.Dir(dir) {
		var at unix.Statx_t
		err := r.stat(dir, &at)
		if errors.Is(err, unix.ENOENT) && dir != "/" {
			continue
		}
		switch {
		case err != nil:
			return "", ""
		case at.Mnt_id != have.Mnt_id:
			return "over whose directory something was mounted since", remedyHidden
		case uint32(have.Mode)&unix.S_IFMT == unix.S_IFDIR:
			return "which is not to be found by that name any more", remedyClose
		case r.readOnly(dir):
			return "whose name was removed, while it has another one, on a read-only mount", remedyClose
		}
		return "", ""
	}
}

var (
	procDirectory = regexp.MustCompile(`^/proc/[0-9]+$`)
	procThread    = regexp.MustCompile(`^/proc/([0-9]+)/task/([0-9]+)(/|$)`)
	procFleeting  = regexp.MustCompile(`^/proc/[0-9]+/(task/[0-9]+/)?(fdinfo|map_files)/.`)
	procProcess   = regexp.MustCompile(`^/proc/([0-9]+)/`)
)

// judgeProc does the same for a path of /proc. There CRIU compares nothing (files-reg.c,
// check_path_remap). Of descriptors vem/hold/vet judges some already.
func (r *root) judgeProc(name string, have *unix.Statx_t, descriptor bool) (what, remedy string) {
	const remedyProc = "have the program leave it while it sleeps"
	if m := procThread.FindStringSubmatch(name); procDirectory.MatchString(name) || m != nil && m[1] != m[2] {
		if descriptor {
			return "", ""
		}
		return "which CRIU can't bring it back to", remedyProc
	}
	if procFleeting.MatchString(name) {
		return "which may not be there when the app comes back: it lasts as long as another open file or mapping", remedyClose
	}
	m := procProcess.FindStringSubmatch(name)
	if m == nil {
		return "", "" // a file of the whole system
	}
	if leader := r.leader(m[1]); leader != "" && leader != m[1] {
		return "which is of a thread: CRIU opens it before the thread is there again", remedyClose
	}
	var now unix.Statx_t
	err := r.stat(name, &now)
	if err == nil && (now.Mnt_id != have.Mnt_id || !same(&now, have)) {
		return "which is another process's now, since the one that it was opened for has ended", remedyClose
	}
	return "", "" // of a process that has ended CRIU makes a stand-in (dump_dead_process_remap)
}

// leader is the number of the process that a thread belongs to, "" if there is none.
func (r *root) leader(tid string) string {
	fd, err := unix.Openat(r.fd, "proc/"+tid+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), "status")
	defer f.Close() //nolint:errcheck // only read from
	buf := make([]byte, 512)
	n, _ := f.Read(buf)
	// The numbers are those of the pid namespace of this mount of /proc.
	for line := range strings.Lines(string(buf[:n])) {
		if value, ok := strings.CutPrefix(line, "Tgid:"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// comm is the name of a process.
func comm(pid int) string {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	return strings.TrimSpace(string(b))
}

func gone(err error) bool {
	// EINVAL: it ends and has no namespaces any more (fs/proc_namespace.c, mounts_open_common).
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}
