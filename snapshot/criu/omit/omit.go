// Package omit has CRIU leave chosen pages out of what it saves of frozen processes. Whoever chooses
// them has what is in them, and adds it to the images afterwards.
//
//	(CRIU starts, apart; the processes are frozen) ──▶ Start ──▶ (CRIU saves) ──▶ Check ──▶ Close
//
// CRIU asks the kernel which pages of a process it has to save, by the ioctl PAGEMAP_SCAN of
// /proc/PID/pagemap (criu/pagemap-cache.c, pmc_fill), and takes no other. So a file system of ours, by
// FUSE, is mounted on that file: in a mount namespace that nobody but this CRIU is in (package apart),
// and that ends with it. It has the kernel answer, takes the chosen pages out of the answer, and puts it
// into CRIU's memory. Nothing is done to the processes, and nothing has to be put back, whatever ends or
// fails meanwhile. If we end before CRIU has its answers, its question fails (ENOTCONN), and so does the
// dump; the processes go on.
//
// # Cost
//
// 0.3 ms to start, and 20 us for each mapping, for which CRIU asks once. CRIU needs some 1.5 us of
// processor time for a page that it saves, and 5 us for each run of them: a gap of less than four pages
// between two runs is better saved than left out. Of 1 GiB of which every other page is left out it needs
// longer than of all of it.
//
// # What is not left out
//
// Of the vdso and of AIO rings CRIU saves each page, whatever the answer is (criu/mem.c,
// should_dump_entire_vma), so they must not be chosen: [Omission.Check] can't tell. Pages of files and of
// shared memory, and zero pages, it does not ask for in the first place.
//
// # Tried and left out
//
// A seccomp filter on CRIU that hands the ioctl to us (SECCOMP_RET_USER_NOTIF) is simpler. But the
// kernel does not let a process that has a filter save one that has a filter, too: neither suspend it nor
// read it (kernel/ptrace.c, check_ptrace_options; kernel/seccomp.c, seccomp_get_filter). Each app
// whose memory was mapped has one (snapshot/image/guard).
//
// A sparse file that has an entry for each page that is to be saved needs nobody who answers. But CRIU has
// to be told to read it (CRIU_FAULT=135), which it can't be together with other such faults, and then
// reads eight bytes for each page of address space: of a reserved terabyte, two gigabytes.
package omit

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/criu/apart"
	"github.com/snapctl/snapctl/snapshot/image"
)

// Omission leaves pages out of what one CRIU saves. Its methods may be called at any time.
type Omission struct {
	criu  int
	files []*file
	wake  int // an eventfd that ends the answering
	ended chan struct{}
	stop  func() error

	mu  sync.Mutex // guards err and the sets of files
	err error      // the first answer that failed
}

// file stands for the pagemap of one process.
type file struct {
	pid     int
	pagemap int // the real one
	dev     int // /dev/fuse
	set     *set
}

// Start begins to leave pages out, of processes by their numbers: ascending runs that do not overlap,
// whose Flags mean nothing. The processes have to stand still. criu is a CRIU that has yet to look at their
// memory, and that was started by a thread which is in a mount namespace of its own, see [apart.Move].
//
// If it fails, CRIU sees all pages. The caller closes the Omission when CRIU has ended or has let go of the
// processes; what CRIU asks afterwards fails.
//
// It needs CAP_SYS_ADMIN and CAP_SYS_PTRACE, FUSE in the kernel, and Linux 6.7 for PAGEMAP_SCAN: older ones
// make CRIU look elsewhere, and [Omission.Check] fail. [Supported] tells.
func Start(criu int, pages map[int][]image.Extent) (*Omission, error) {
	o := &Omission{criu: criu, wake: -1, ended: make(chan struct{})}
	o.stop = sync.OnceValue(o.end)
	if err := o.start(pages); err != nil {
		return nil, errors.Join(fmt.Errorf("leave pages out of what CRIU saves: %w", err), o.release())
	}
	go o.serve() // end waits for it
	return o, nil
}

func (o *Omission) start(pages map[int][]image.Extent) error {
	for _, pid := range slices.Sorted(maps.Keys(pages)) {
		if len(pages[pid]) == 0 {
			continue
		}
		s, err := newSet(pages[pid])
		if err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		f := &file{pid: pid, pagemap: -1, dev: -1, set: s}
		o.files = append(o.files, f)
		if f.pagemap, err = unix.Open(f.path(), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open %s: %w", f.path(), err)
		}
		if f.dev, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return fmt.Errorf("open /dev/fuse, which comes with the kernel module fuse: %w", err)
		}
	}
	var err error
	if o.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	// Everybody would see what is mounted.
	if together, err := sameMounts(o.criu, os.Getpid()); err != nil {
		return err
	} else if together {
		return errors.New("CRIU is in the mount namespace of the host")
	}
	return apart.Do(o.criu, o.mount)
}

// sameMounts tells whether two processes are in one mount namespace.
func sameMounts(a, b int) (bool, error) {
	var ns [2]string
	for i, pid := range []int{a, b} {
		var err error
		if ns[i], err = os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err != nil {
			return false, fmt.Errorf("find mount namespace: %w", err)
		}
	}
	return ns[0] == ns[1], nil
}

// mount makes the mounts for CRIU, whose mount namespace the calling thread is in, or none.
func (o *Omission) mount() error {
	for i, f := range o.files {
		// The kernel lets nobody but this user look at the files (fs/fuse/dir.c, fuse_allow_current_process).
		options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d", f.dev, unix.S_IFREG|0o400, os.Geteuid(), os.Getegid())
		err := unix.Mount("snapctl", f.path(), "fuse", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
		if err != nil {
			err = fmt.Errorf("mount on %s: %w", f.path(), err)
			for _, done := range o.files[:i] {
				err = errors.Join(err, unix.Unmount(done.path(), unix.MNT_DETACH))
			}
			return err
		}
	}
	return nil
}

func (f *file) path() string { return fmt.Sprintf("/proc/%d/pagemap", f.pid) }

// Check returns an error unless CRIU has come across each page that was to be left out, as one that
// it would have saved, and was not shown it. It is to be called when CRIU has saved the memory of all
// processes. If an answer has failed, and so the dump, it tells why.
func (o *Omission) Check() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	for _, f := range o.files {
		if f.set.left < f.set.total {
			missed := f.set.missed()
			return fmt.Errorf("CRIU did not come across %d of %d pages of process %d that it was to leave out, the first at %#x",
				f.set.total-f.set.left, f.set.total, f.pid, missed)
		}
	}
	return nil
}

// Pages tells how many pages CRIU has come across, and were left out.
func (o *Omission) Pages() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	var n uint64
	for _, f := range o.files {
		n += f.set.left
	}
	return n
}

// Close ends the answering. It can be called again.
func (o *Omission) Close() error { return o.stop() }

func (o *Omission) end() error {
	one := [8]byte{1}
	if _, err := unix.Write(o.wake, one[:]); err != nil {
		return fmt.Errorf("end the answers to CRIU: %w", err)
	}
	<-o.ended
	return o.release()
}

// release closes all files, by which the file systems end (fs/fuse/dev.c, fuse_dev_release).
func (o *Omission) release() error {
	var err error
	for _, f := range o.files {
		err = errors.Join(err, closeFD(f.dev), closeFD(f.pagemap))
	}
	return errors.Join(err, closeFD(o.wake))
}

func closeFD(fd int) error {
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}
