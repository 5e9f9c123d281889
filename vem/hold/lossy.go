package hold

import (
	"errors"
	"strings"
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
			if keep, err := lasts(&p.devices, pid, fd); keep || err != nil {
				return Verdict{}, false // if not closed, Collect will tell
			}
		}
		return unreadInotify(), true
	case strings.HasPrefix(link, "/") && (!mounted || strings.HasPrefix(link, QueueMount+"/")) && isMqueue(pid, fd):
		return p.mqueue(pid, fd, link)
	}
	return Verdict{}, false
}

// state judges the process itself: all that is not one of its files.
func (p *preflight) state(pid int) error {
	st, err := readStatus(pid)
	if err != nil {
		return err
	}
	if st.tracer != "0" {
		// seize.c waits for it in vain, for 10 s, with all others stopped.
		p.add(Error, pid, noFD, refuse(Other, "debugger, process "+st.tracer,
			"end strace, gdb and the like before hibernating: CRIU must trace the process itself"))
	}
	p.namespaces.see(pid, st)
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
