package hold

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Here is what CRIU 4.2 saves only in part without a word, and what it fails on when the app
// is already frozen. Each was tried.

// losing judges a descriptor of which CRIU would lose something that no hold
// keeps. Its link is known; mounted tells whether it lies on a mount of the app.
func (p *preflight) losing(pid, fd int, link string, mounted bool) (Verdict, bool) {
	if note, ok := unpublished(pid, fd, link); ok {
		p.findings = append(p.findings, Finding{Severity: Listed, Note: note})
	}
	for _, odd := range []func() (Verdict, bool){
		func() (Verdict, bool) { return oddLink(link) },
		func() (Verdict, bool) { return oddInfo(pid, fd, link) },
		func() (Verdict, bool) { return oddFile(pid, fd, link) },
		func() (Verdict, bool) { return largeRemoved(pid, fd, link) },
	} {
		if v, ok := odd(); ok {
			return v, true
		}
	}
	switch {
	case link == fanotifyLink && unread(pid, fd):
		return unreadFanotify(), true
	case link == inotifyLink && unread(pid, fd):
		if !p.copy {
			if keep, err := p.devices.lasting(pid, fd); keep || err != nil {
				return Verdict{}, false // if not closed, Collect will tell
			}
		}
		return unreadInotify(), true
	case strings.HasPrefix(link, "/") && (!mounted || strings.HasPrefix(link, QueueMount+"/")) && isMqueue(pid, fd):
		return p.mqueue(pid, fd, link)
	}
	return Verdict{}, false
}

// fanotifyLink is what /proc/PID/fd/N shows of a fanotify group. CRIU saves its
// marks alone (fsnotify.c, dump_one_fanotify), and it can't be held: marks of
// mounts end with the app's mount namespace.
const fanotifyLink = "anon_inode:[fanotify]"

func unreadFanotify() Verdict {
	return refuse(Other, "fanotify group with events that wait to be read", "try again: the app has to read them first")
}

// unread tells whether an inotify or fanotify descriptor has events in its queue.
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

// state judges the process itself: all that is not one of its files.
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
func singleNamespaces() []string {
	return []string{"pid", "net", "user", "ipc", "uts", "time", "cgroup"}
}

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
