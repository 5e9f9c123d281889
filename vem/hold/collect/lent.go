package collect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// A lent file is one that the host shares with the app: it lies on a bind mount,
// or somebody outside of the app has passed its descriptor on. Two kinds of them
// are held, see [hold.Lent]:
//
//   - a file on which the app has a lock of the open file description, flock(2)
//     or F_OFD_SETLK: the lock lasts as long as somebody has that description
//     open, so that nobody else gets it while the app sleeps;
//   - a file on no mount of the app, which CRIU can't find again (files-reg.c,
//     dump_one_reg_file: "Can't lookup mount"). One that was held before is
//     such a file: the mount by which it was opened ended with the app's
//     processes of then.
//
// CRIU must be told of both. It knows a file by mount and inode, however often
// it was opened, so that all open ones with the same two are held together.

// Bind is a directory or file of the host that is mounted inside the app.
type Bind struct {
	Inside string // where the app sees it
	Host   string // where the caller sees it
}

// lentFile is an open file that may have to be held.
type lentFile struct {
	pid, fd      int
	copied       int // ours, -1 when somebody else owns it
	mount, inode uint64
	link         string
	locked       bool // by flock(2) or F_OFD_SETLK
	process      bool // by F_SETLK: such a lock is the process's
	description  hold.Lent
	device       uint64
}

// name is what CRIU calls the file (files-reg.c, dump_one_reg_file).
func (f *lentFile) name() string { return fmt.Sprintf("file[%x:%x]", f.mount, f.inode) }

// lent finds the files that are lent to an app.
type lent struct {
	opt    Options
	tables map[string]map[uint64]string // mount points by mount id, by mount namespace
	list   []*lentFile
}

// see keeps the duplicate of a descriptor if the file may have to be held.
func (l *lent) see(pid, fd, copied int, at proc.Attributes) (kept bool, err error) {
	if kind := at.Mode & unix.S_IFMT; at.Mount == 0 || kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return false, nil
	}
	mounts, err := l.mounts(pid)
	if err != nil {
		return false, err
	}
	point, mounted := mounts[at.Mount]
	if mounted && !proc.Below(point, l.opt.hostPaths()) {
		return false, nil
	}
	link, err := os.Readlink(proc.FDPath(pid, fd))
	if err != nil {
		return false, proc.Gone(pid, err)
	}
	if !strings.HasPrefix(link, "/") || !mounted && proc.HasOwnMount(link) {
		return false, nil
	}
	f := &lentFile{
		pid: pid, fd: fd, copied: copied, mount: at.Mount, inode: at.Inode, device: at.Dev,
		link: link, description: hold.Lent{Mounted: mounted},
	}
	if slices.Contains(l.opt.Known, f.name()) {
		return false, nil
	}
	if err := f.readInfo(); err != nil {
		return false, err
	}
	f.description.Path = l.inside(f)
	f.description.Name = f.place()
	l.list = append(l.list, f)
	return true, nil
}

// readInfo reads what /proc/PID/fdinfo/FD tells: fs/proc/fd.c, seq_show, and
// fs/locks.c, show_fd_locks: "lock:	1: FLOCK  ADVISORY  WRITE 8260 08:01:13 0 EOF".
func (f *lentFile) readInfo() error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", f.pid, f.fd))
	if err != nil {
		return proc.Gone(f.pid, err)
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "pos":
			f.description.Position, err = strconv.ParseInt(value, 10, 64)
		case "flags":
			var flags int64
			flags, err = strconv.ParseInt(value, 8, 64)
			f.description.Flags = int(flags) &^ unix.O_CLOEXEC
		case "lock":
			if fields := strings.Fields(value); len(fields) > 1 {
				f.locked = f.locked || fields[1] == "FLOCK" || fields[1] == "OFDLCK"
				f.process = f.process || fields[1] == "POSIX"
			}
		}
		if err != nil {
			return fmt.Errorf("look at descriptor %d of process %d: %w", f.fd, f.pid, err)
		}
	}
	return nil
}

// inside finds the app's path of a file: the one that it was opened by, or that
// path as seen from the mount that it was opened by, which may have ended.
func (l *lent) inside(f *lentFile) string {
	for _, b := range l.opt.Binds {
		rest, ok := f.link, !f.description.Mounted
		if under, found := strings.CutPrefix(f.link, path.Clean(b.Inside)); found && (under == "" || under[0] == '/') {
			rest, ok = under, true
		}
		if !ok {
			continue
		}
		// A bind of one file has no name below it.
		for _, rest := range []string{rest, ""} {
			var st unix.Stat_t
			if unix.Stat(b.Host+rest, &st) == nil && st.Ino == f.inode && st.Dev == f.device {
				return path.Clean(b.Inside) + rest
			}
		}
	}
	return ""
}

// mounts lists the mount points that a process sees.
func (l *lent) mounts(pid int) (map[uint64]string, error) {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, proc.Gone(pid, err)
	}
	if known, ok := l.tables[ns]; ok {
		return known, nil
	}
	points, err := proc.MountPoints(pid)
	if err != nil {
		return nil, err
	}
	if l.tables == nil {
		l.tables = map[string]map[uint64]string{}
	}
	l.tables[ns] = points
	return points, nil
}

// settle moves what is to be held into the objects, closes the rest, and returns
// a note for each lock that a hold can't keep.
func (l *lent) settle(o *objects) (notes []hold.Note, err error) {
	held := map[string]bool{}
	for _, f := range l.list {
		if l.opt.Copy && !f.description.Mounted && f.description.Path == "" {
			return nil, hold.Refuse(hold.File, "file "+strconv.Quote(f.link)+" that is on none of the app's mounts",
				"the app must close it: it can be held for a wake, but a copy can't open it").Refusal(f.pid, f.fd)
		}
		if f.locked && !l.opt.Copy || !f.description.Mounted {
			held[f.name()] = true
		}
	}
	for _, f := range l.list {
		if f.process && !l.opt.Copy {
			notes = append(notes, f.lostLock())
		}
		if !held[f.name()] {
			continue
		}
		kept, err := o.addLent(f)
		if err != nil {
			return nil, err
		}
		if kept {
			f.copied = -1
		}
	}
	l.close()
	return notes, nil
}

func (f *lentFile) lostLock() hold.Note {
	return hold.Note{
		Text: fmt.Sprintf("process %d has a lock (fcntl) on %s, descriptor %d: nobody has it while the app sleeps, and the wake takes it again",
			f.pid, f.place(), f.fd),
		Remedy: "flock(2) and OFD locks are kept meanwhile",
	}
}

// place names the file to the user.
func (f *lentFile) place() string {
	if f.description.Path != "" {
		return f.description.Path
	}
	return f.link
}

func (l *lent) close() {
	for _, f := range l.list {
		if f.copied >= 0 {
			unix.Close(f.copied) //nolint:errcheck // the app's own descriptor stays open
		}
	}
	l.list = nil
}

// addLent takes an open file. kept tells whether it owns the duplicate now.
func (o *objects) addLent(f *lentFile) (kept bool, err error) {
	inner, err := proc.InnerPID(f.pid)
	if err != nil {
		return false, err
	}
	owner := hold.Descriptor{PID: inner, FD: f.fd}
	i, known, err := o.find(f.copied)
	if err != nil {
		return false, err
	}
	if known {
		o.list[i].owners = append(o.list[i].owners, owner)
		return false, nil
	}
	o.list = slices.Insert(o.list, i, &object{
		fd: f.copied, kind: hold.File, external: f.name(), lent: &f.description, owners: []hold.Descriptor{owner},
	})
	return true, nil
}

// FindLent lists the files of an app that are to be held as [hold.Lent]; see also
// [Options.Copy]. What a running app changes later is for the caller to notice, by
// [App] of the frozen app. The objects have no files.
func FindLent(ctx context.Context, pids []int, opt Options) ([]hold.Object, error) {
	l := lent{opt: opt}
	defer l.close()
	var o objects
	defer o.close()
	for _, pid := range pids {
		err := proc.Duplicate(ctx, pid, func(fd, copied int, at proc.Attributes) (bool, error) {
			if o.isQueue(pid, at) {
				return false, nil
			}
			return l.see(pid, fd, copied, at)
		})
		if err != nil && !errors.Is(err, proc.ErrGone) {
			return nil, err
		}
	}
	if _, err := l.settle(&o); err != nil && !errors.Is(err, proc.ErrGone) {
		return nil, err
	}
	out := make([]hold.Object, len(o.list))
	for i, have := range o.list {
		out[i] = hold.Object{Kind: have.kind, Number: i, Owners: have.owners, External: have.external, Lent: have.lent}
	}
	return out, nil
}
