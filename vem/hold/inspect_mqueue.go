package hold

// mqueue judges a descriptor that lies on the file system of message queues.
func (p *preflight) mqueue(pid, fd int, link string) (Verdict, bool) {
	switch {
	case p.copy:
		return refuse(Mqueue, "POSIX message queue "+link, copyRemedy), true
	case queueDevice(pid) == 0:
		return refuse(Mqueue, "POSIX message queue "+link, "mount the file system mqueue at "+QueueMount+" in the app"), true
	case notifies(fdPath(pid, fd)):
		return notifyingQueue(), true
	default:
		return Verdict{}, false
	}
}

const copyRemedy = "the app must close and unlink it: it can be held for a wake, but nobody can copy its messages"

// queues finds POSIX message queues that no process has open.
func (p *preflight) queues(pid int) error {
	if !p.copy {
		return nil
	}
	names, err := queueNames(pid)
	if err != nil {
		return err
	}
	for _, name := range names {
		v := refuse(Mqueue, "POSIX message queue /"+name, copyRemedy)
		if !p.found(v.What) {
			p.add(Error, pid, noFD, v)
		}
	}
	return nil
}
