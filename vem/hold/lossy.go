package hold

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What CRIU 4.2 saves only in part and says nothing, or fails on when the app is
// frozen already. Each was tried.

// mqueueMagic is the file system type of POSIX message queues, ipc/mqueue.c.
const mqueueMagic = 0x19800202

// losing judges a descriptor of which CRIU would lose something that no hold
// keeps. Its link is known; mounted tells whether it lies on a mount of the app.
func (p *preflight) losing(pid, fd int, link string, mounted bool) (Verdict, bool) {
	switch {
	case link == "anon_inode:inotify" && unread(pid, fd):
		if !p.copy {
			if keep, err := p.devices.lasting(pid, fd); keep || err != nil {
				return Verdict{}, false // if not closed, Collect will tell
			}
		}
		return unreadInotify(), true
	case !mounted && strings.HasPrefix(link, "/") && isMqueue(pid, fd):
		// mq_open(3) opens it on the kernel's own mount: "Can't lookup mount".
		return refuse(Other, "POSIX message queue "+link, mqueueRemedy), true
	}
	return Verdict{}, false
}

const mqueueRemedy = "the app must close and unlink it: CRIU saves neither queues nor messages; System V queues and unix sockets are kept"

// unread tells whether an inotify descriptor has events in its queue.
func unread(pid, fd int) bool {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	copied, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return false
	}
	defer unix.Close(copied) //nolint:errcheck // the app's own descriptor stays open
	return waiting(copied)
}

func isMqueue(pid, fd int) bool {
	var st unix.Statfs_t
	err := unix.Statfs(fdDir(pid)+"/"+strconv.Itoa(fd), &st)
	return err == nil && st.Type == mqueueMagic
}

// queues finds POSIX message queues that no process has open: with one, CRIU
// fails to save their file system (filesystems.c, dump_empty_fs).
func (p *preflight) queues(pid int) error {
	dir := fmt.Sprintf("/proc/%d/root/dev/mqueue", pid)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != mqueueMagic {
		return nil //nolint:nilerr // the app has none
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the process is gone
	}
	if err != nil {
		return fmt.Errorf("list message queues: %w", err)
	}
	for _, e := range entries {
		v := refuse(Other, "POSIX message queue /"+e.Name(), mqueueRemedy)
		if !p.found(v.What) {
			p.add(Error, pid, noFD, v)
		}
	}
	return nil
}

// state judges the process itself, by what it is besides its files.
func (p *preflight) state(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return gone(pid, err)
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case name == "TracerPid" && value != "0":
			// seize.c waits for it in vain, for 10 s, with all others stopped.
			p.add(Error, pid, noFD, refuse(Other, "debugger, process "+value,
				"end strace, gdb and the like before hibernating: CRIU must trace the process itself"))
		case name == "NSpid":
			ids := strings.Fields(value)
			p.nested.see(pid, len(ids), ids[len(ids)-1] == "1")
		}
	}
	return nil
}

// found tells whether some process was found to have the same thing.
func (p *preflight) found(what string) bool {
	for _, f := range p.findings {
		var u *UnsupportedError
		if errors.As(f.Err, &u) && u.What == what {
			return true
		}
	}
	return false
}

// singleNamespaces are those that an app has one of: CRIU saves no second one
// (namespaces.c, get_ns_id: "Can't dump nested pid namespace"), or saves it and
// can't restore it (pstree.c: "Can't restore sub-task in NS", of a second network
// namespace beside an external one). Mount namespaces may be several.
func singleNamespaces() []string { return []string{"pid", "net", "user", "ipc", "uts", "time"} }

// nested remembers the namespaces of each process.
type nested struct {
	links map[int][]string // by process, as singleNamespaces
	root  int              // the app's first process
	depth int              // of its pid namespace in those of the host
}

func (n *nested) see(pid, depth int, first bool) {
	if n.links == nil {
		n.links = make(map[int][]string)
	}
	var links []string
	for _, name := range singleNamespaces() {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			return // it has ended, or the kernel has none of these
		}
		links = append(links, link)
	}
	n.links[pid] = links
	if first && (n.root == 0 || depth < n.depth) {
		n.root, n.depth = pid, depth
	}
}

func (n *nested) judge(p *preflight) {
	own, ok := n.links[n.root]
	if !ok {
		return // no app with namespaces of its own
	}
	for _, pid := range p.pids {
		for i, link := range n.links[pid] {
			if link != own[i] {
				p.add(Error, pid, noFD, refuse(Other, singleNamespaces()[i]+" namespace of its own",
					"run containers and sandboxes beside the app and not inside: CRIU can't restore such a process"))
				break
			}
		}
	}
}

// sameNamespaces looks again, now that the app is frozen: what could not be
// restored would be lost.
func sameNamespaces(pids []int) error {
	p := preflight{pids: pids}
	for _, pid := range pids {
		if err := p.state(pid); err != nil {
			return err
		}
	}
	p.findings = nil // a tracer is CRIU's business by now
	p.nested.judge(&p)
	return Errors(p.findings)
}

// terminals remembers the descriptors that matter for controlling terminals.
type terminals struct {
	control Owner // one of /dev/tty
	master  bool  // somebody has a pseudo terminal's master
}

func (t *terminals) see(pid, fd int, rdev uint64) {
	switch rdev {
	case unix.Mkdev(majorTTYAux, 0):
		t.control = Owner{PID: pid, FD: fd}
	case unix.Mkdev(majorTTYAux, minorAuxPtmx):
		t.master = true
	}
}

// judge refuses /dev/tty where the terminal's master is in the app too. CRIU
// takes the master for the terminal that /dev/tty must be restored from, which
// it would do only if one process had both (tty.c, tty_verify_ctty: "ctty
// inheritance detected").
func (t *terminals) judge(p *preflight) {
	if t.control.PID != 0 && t.master {
		p.add(Error, t.control.PID, t.control.FD, refuse(Other, "/dev/tty on a terminal that the app itself made",
			"end interactive shells below screen, tmux, script and the like before hibernating"))
	}
}
