package vet

import (
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// mqueue judges a descriptor that lies on the file system of message queues.
func (p *preflight) mqueue(pid, fd int, link string) (hold.Verdict, bool) {
	switch {
	case p.copy:
		return hold.Refuse(hold.Mqueue, "POSIX message queue "+link, copyRemedy), true
	case mqueue.Device(pid) == 0:
		return hold.Refuse(hold.Mqueue, "POSIX message queue "+link, "mount the file system mqueue at "+mqueue.Mount+" in the app"), true
	case mqueue.Notifies(proc.FDPath(pid, fd)):
		return mqueue.Notifying(), true
	default:
		return hold.Verdict{}, false
	}
}

const copyRemedy = "the app must close and unlink it: it can be held for a wake, but nobody can copy its messages"

// queues finds POSIX message queues that no process has open.
func (p *preflight) queues(pid int) error {
	if !p.copy {
		return nil
	}
	names, err := mqueue.Names(pid)
	if err != nil {
		return err
	}
	for _, name := range names {
		v := hold.Refuse(hold.Mqueue, "POSIX message queue /"+name, copyRemedy)
		if !p.found(v.What) {
			p.add(Error, pid, hold.NoFD, v)
		}
	}
	return nil
}
