package preflight

import "fmt"

// sessions finds processes whose session CRIU could not give back. CRIU has to find a process
// that can have made such a process in its session (pstree.c, prepare_pstree_ids: "Can't find
// a session leader", "Can't figure out which sid"). If the leader of the session has ended, CRIU
// makes a helper in its place, but only for children of the app's first process.
func (l *look) sessions() {
	root := l.processes[l.opt.Root]
	if root == nil {
		return
	}
	leaders := make(map[int]bool)
	for _, p := range l.order {
		leaders[p.inside] = true
	}
	born := make(map[int]int) // by process: the session that it must have been in when it made a child
	for _, p := range l.order {
		parent := l.processes[p.parent]
		switch {
		case p == root || parent == nil, p.session == p.inside, p.session == parent.session:
			continue
		case parent == root:
			continue // CRIU makes a helper
		}
		if what := l.unborn(p, born); what != "" {
			l.refuse(p, what, "start it so that it ends up as a child of the app's first process (without a subreaper between, PR_SET_CHILD_SUBREAPER), or keep the leader of its session: "+
				"CRIU can't bring it back into that session")
		}
	}
}

// unborn tells why no ancestor of the process can have made it in its session; "" if one
// can.
func (l *look) unborn(p *process, born map[int]int) string {
	for at := l.processes[p.parent]; at != nil; at = l.processes[at.parent] {
		if at.inside == p.session {
			return ""
		}
		if s, ok := born[at.pid]; ok && s != p.session {
			return fmt.Sprintf("is in session %d, and process %d (%s) can't have made it there: another of its children is in session %d", p.session, at.pid, at.name, s)
		}
		born[at.pid] = p.session
	}
	return fmt.Sprintf("is in session %d, whose leader has ended or is no ancestor of it", p.session)
}
