package vet

import (
	"errors"
	"strings"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/fsnotify"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// Here is what CRIU 4.2 saves only in part without a word, and what it fails on when the app
// is already frozen. Each was tried.

// losing judges a descriptor of which CRIU would lose something that no hold
// keeps. Its link is known; mounted tells whether it lies on a mount of the app.
func (p *preflight) losing(pid, fd int, link string, mounted bool) (hold.Verdict, bool) {
	if note, ok := unpublished(pid, fd, link); ok {
		p.findings = append(p.findings, Finding{Severity: Listed, Note: note})
	}
	for _, odd := range []func() (hold.Verdict, bool){
		func() (hold.Verdict, bool) { return oddLink(link) },
		func() (hold.Verdict, bool) { return oddInfo(pid, fd, link) },
		func() (hold.Verdict, bool) { return oddFile(pid, fd, link) },
		func() (hold.Verdict, bool) { return largeRemoved(pid, fd, link) },
	} {
		if v, ok := odd(); ok {
			return v, true
		}
	}
	switch {
	case link == fsnotify.FanotifyLink && fsnotify.Unread(pid, fd):
		return hold.UnreadFanotify(), true
	case link == fsnotify.InotifyLink && fsnotify.Unread(pid, fd):
		if !p.copy {
			if keep, err := fsnotify.Lasts(&p.devices, pid, fd); keep || err != nil {
				return hold.Verdict{}, false // if not closed, collect.App will tell
			}
		}
		return hold.UnreadInotify(), true
	case strings.HasPrefix(link, "/") && (!mounted || strings.HasPrefix(link, mqueue.Mount+"/")) && mqueue.Is(pid, fd):
		return p.mqueue(pid, fd, link)
	}
	return hold.Verdict{}, false
}

// state judges the process itself: all that is not one of its files.
func (p *preflight) state(pid int) error {
	st, err := proc.ReadStatus(pid)
	if err != nil {
		return err
	}
	if st.Tracer != "0" {
		// seize.c waits for it in vain, for 10 s, with all others stopped.
		p.add(Error, pid, hold.NoFD, hold.Refuse(hold.Other, "debugger, process "+st.Tracer,
			"end strace, gdb and the like before hibernating: CRIU must trace the process itself"))
	}
	p.namespaces.See(pid, st)
	return nil
}

// found tells whether some process was found to have the same thing.
func (p *preflight) found(what string) bool {
	for _, f := range p.findings {
		var u *hold.UnsupportedError
		if errors.As(f.Err, &u) && u.What == what {
			return true
		}
	}
	return false
}
