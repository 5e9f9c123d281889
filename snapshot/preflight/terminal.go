package preflight

import (
	"fmt"
	"strings"
)

// terminals notes the processes that come back without their controlling terminal: all
// that have one, but for leaders of sessions. A process gets it from its parent when it is
// made (the kernel's kernel/fork.c, copy_signal), and no system call gives it to one that
// leads no session. CRIU makes all processes first, and gives the leaders their terminals
// later (criu/cr-restore.c, create_children_and_session; criu/tty.c,
// tty_restore_ctl_terminal).
func (l *look) terminals() {
	const most = 8 // are named
	var names []string
	more := 0
	for _, p := range l.order {
		for _, t := range p.threads {
			if t.tid != p.pid || t.terminal == 0 || p.session == p.inside || p.state == 'Z' {
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
		"start such shells anew then (su, a shell in a shell); what is started later in the first shell of a terminal has it")
}
