package preflight

import (
	"fmt"
	"strings"
)

// terminals notes the processes that come back without their controlling terminal. A
// process gets it from its parent when it is made (the kernel's kernel/fork.c,
// copy_process), and no system call gives it to one that leads no session. Package restore
// gives it to the leaders before they make children; but not to the app's first process,
// which CRIU makes before there are terminals, and not in time for the children of a
// process that has ended: CRIU has a helper make those, before the others
// (criu/pstree.c, prepare_pstree_ids).
func (l *look) terminals() {
	const most = 8 // are named
	var names []string
	more := 0
	for _, p := range l.order {
		for _, t := range p.threads {
			if t.tid != p.pid || t.terminal == 0 || p.session == p.inside || p.state == 'Z' || l.heir(p) {
				continue
			}
			if len(names) == most {
				more++
				continue
			}
			names = append(names, fmt.Sprintf("%d (%s)", p.inside, p.name))
		}
	}
	if len(names) == 0 {
		return
	}
	text := "no controlling terminal when they come back have: " + strings.Join(names, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	l.note(text+". They go on reading and writing the terminal, and its keys reach them; they can't open /dev/tty, and a shell among them can't bring jobs to the foreground",
		"start them anew then from the shell of the terminal")
}

// heir tells whether the leader of a process's session is above it, and is not the app's
// first process.
func (l *look) heir(p *process) bool {
	root := l.processes[l.opt.Root]
	for at := l.processes[p.parent]; at != nil && at != root; at = l.processes[at.parent] {
		if at.inside == p.session {
			return true
		}
	}
	return false
}
