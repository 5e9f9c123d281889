package veil

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/absent"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// instance is an epoll instance.
type instance struct {
	at      []place // where it is open
	watches []absent.Watch
	text    string // what the kernel tells of them
}

// place is a descriptor of a process, as we number it.
type place struct{ pid, fd int }

// epollLink is what a descriptor of an epoll instance leads to.
const epollLink = "anon_inode:[eventpoll]"

// add adds an instance to others, or the place to the one that it is.
func add(all []*instance, at place) ([]*instance, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", at.pid, at.fd))
	if err != nil {
		return nil, proc.Gone(at.pid, err)
	}
	// The rest may differ between descriptors.
	in := &instance{at: []place{at}, text: string(b[max(bytes.Index(b, []byte("tfd:")), 0):])}
	for _, have := range all {
		if have.text != in.text {
			continue
		}
		same, err := sameFile(have.at[0], at)
		if err != nil {
			return nil, err
		}
		if same {
			have.at = append(have.at, at)
			return all, nil
		}
	}
	for line := range strings.Lines(in.text) {
		if !strings.HasPrefix(line, "tfd:") {
			continue
		}
		w, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("descriptor %d of process %d: %w", at.fd, at.pid, err)
		}
		in.watches = append(in.watches, w)
	}
	return append(all, in), nil
}

// parse reads a line that is about one thing that is watched (fs/eventpoll.c, ep_show_fdinfo):
//
//	tfd:        5 events:       19 data:                5  pos:0 ino:1c5a sdev:8
func parse(line string) (w absent.Watch, err error) {
	fields := strings.Fields(line)
	// A name and its value may be apart.
	for i := 0; i < len(fields) && err == nil; i++ {
		name, text, ok := strings.Cut(fields[i], ":")
		if ok && text == "" && i+1 < len(fields) {
			i++
			text = fields[i]
		}
		var v uint64
		switch name {
		case "tfd":
			w.FD, err = strconv.Atoi(text)
		case "events":
			v, err = strconv.ParseUint(text, 16, 32)
			w.Events = uint32(v) //nolint:gosec // parsed as such
		case "data":
			w.Data, err = strconv.ParseUint(text, 16, 64)
		case "pos":
			w.Offset, err = strconv.ParseUint(text, 10, 64)
		case "ino":
			w.Inode, err = strconv.ParseUint(text, 16, 64)
		case "sdev":
			v, err = strconv.ParseUint(text, 16, 32)
			w.Device = uint32(v) //nolint:gosec // parsed as such
		}
	}
	if err != nil {
		return w, fmt.Errorf("read what an epoll instance watches: %q: %w", line, err)
	}
	return w, nil
}

// finds tells whether all who have the instance have what it watches by its i-th watch at the number by
// which it is watched, so that a restore can watch it again. sockets are known ones.
func (in *instance) finds(i int, sockets map[place]uint64) bool {
	w := in.watches[i]
	slot := struct{ efd, tfd, offset uint32 }{tfd: uint32(w.FD)} //nolint:gosec // a number of a descriptor
	for _, before := range in.watches[:i] {
		if before.FD == w.FD { // the number was closed, and is another file's
			slot.offset++
		}
	}
	for _, at := range in.at {
		if inode, ok := sockets[place{at.pid, w.FD}]; ok && slot.offset == 0 {
			if inode != w.Inode {
				return false
			}
			continue
		}
		const target = 7         // KCMP_EPOLL_TFD
		slot.efd = uint32(at.fd) //nolint:gosec // a number of a descriptor
		r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(at.pid), uintptr(at.pid), target, uintptr(w.FD), uintptr(unsafe.Pointer(&slot)), 0)
		if errno != 0 || r != 0 {
			return false // it is not open, or the kernel can't tell
		}
	}
	return true
}

// sameFile tells whether two descriptors lead to one open file, kcmp(2).
func sameFile(a, b place) (bool, error) {
	const file = 0
	return kcmp(a.pid, b.pid, file, a.fd, b.fd)
}

// sameTable tells whether two processes share their table of descriptors.
func sameTable(a, b int) (bool, error) {
	const files = 2
	return kcmp(a, b, files, 0, 0)
}

// kcmp needs a kernel with CONFIG_KCMP, as CRIU does.
func kcmp(a, b, what, fdA, fdB int) (bool, error) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), uintptr(what), uintptr(fdA), uintptr(fdB), 0)
	if errno != 0 {
		return false, fmt.Errorf("compare processes %d and %d: %w", a, b, proc.Gone(a, errno))
	}
	return r == 0, nil
}
