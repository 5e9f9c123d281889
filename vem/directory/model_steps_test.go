package directory

import (
	"slices"
)

// step is what may happen next, and what there is then.
type step struct {
	host int8
	what string
	then situation
}

func (s step) String() string { return hostName(s.host) + " " + s.what }

// steps returns all that may happen in a situation.
func (s situation) steps(r rules) (list []step) {
	add := func(h int8, what string, then situation) { list = append(list, step{h, what, then.tidy(r)}) }
	for i := range s.sent {
		if s.sent[i].used {
			s.stepsOfStore(r, i, add)
		}
	}
	s.stepsOfBackup(r, add)
	for h := range int8(r.hosts) {
		s.stepsOfMachine(r, h, add)
		if m := s.hosts[h]; m.up && m.began {
			s.stepsOfWriting(r, h, add)
			s.stepsOfOwner(r, h, add)
			s.stepsOfMove(r, h, add)
		}
	}
	return list
}

// outcome is what becomes of a commit.
type outcome struct{ happens, answered, again bool }

var outcomes = map[outcome]string{
	{true, true, false}:   "is told that what it sent has happened",
	{true, true, true}:    "is told that what it sent has happened, and it may happen again",
	{true, false, false}:  "sent something that happens late",
	{true, false, true}:   "sent something that happens late, and may happen again",
	{false, true, false}:  "is told that what it sent is void",
	{false, false, false}: "sent something that is void",
}

var confirms = map[Standing]string{Owner: "confirms that it is the owner", Pending: "asks, and is not the owner yet", Lost: "asks, and has lost it"}

// stepsOfStore are those of one commit that was sent: it happens and is answered, it happens and
// may happen once more, it gets lost.
func (s situation) stepsOfStore(r rules, i int, add func(int8, string, situation)) {
	c := s.sent[i]
	for _, again := range []bool{false, true} {
		t := s
		ok := t.happen(r, i)
		t.sent[i].answer = false
		if !again {
			t.sent[i] = commit{}
		} else if !ok {
			continue
		}
		if c.answer {
			t.hosts[c.by].waits = false
			if ok {
				t.done(c.by)
			}
		}
		add(c.by, outcomes[outcome{ok, c.answer, again}], t)
	}
	t := s
	if c.answer { // from now on it is late
		t.hosts[c.by].unsure = true
		t.forsake(c.by)
		add(c.by, "gets no answer", t)
	} else {
		t.sent[i] = commit{}
		add(c.by, "sent something that gets lost", t)
	}
}

// stepsOfBackup are that a backup is made, and that the directory is put back from it. What was sent to
// the directory before that never happens.
func (s situation) stepsOfBackup(r rules, add func(int8, string, situation)) {
	if int(s.restored) == r.restores {
		return
	}
	if s.backup != s.record || s.changed {
		t := s
		t.backup, t.changed = s.record, false
		add(0, "makes a backup of the directory", t)
	}
	if !r.settled || !s.changed {
		t := s
		t.record, t.restored = s.backup, s.restored+1
		t.sent = [modelSent]commit{}
		for h := range t.hosts {
			if t.hosts[h].waits {
				t.hosts[h].waits, t.hosts[h].unsure = false, true
			}
		}
		t.backup, t.changed = nothing, false
		add(0, "puts the directory back from the backup", t)
	}
}

// stepsOfMachine are those of a host whatever its daemon does.
func (s situation) stepsOfMachine(r rules, h int8, add func(int8, string, situation)) {
	m := s.hosts[h]
	if m.up && int(s.crashes) < r.crashes {
		t := s
		t.crashes++
		t.halt(h)
		t.hosts[h].up, t.hosts[h].running = false, false
		add(h, "crashes", t)
	}
	if m.up && int(s.restarts) < r.restarts {
		t := s
		t.restarts++
		t.halt(h)
		add(h, "has a new daemon", t)
	}
	if !m.up {
		t := s
		t.hosts[h].up, t.hosts[h].boot = true, m.boot+1
		add(h, "starts", t)
	}
	if m.up && !m.began {
		t := s
		t.hosts[h].began = true
		if r.begin {
			t.cut(h)
		}
		t.renewed(r, h)
		add(h, "begins a session", t)
	}
	// What a host may do without the directory.
	if m.up && m.has && !m.running && m.phase == idle && s.allowed(r, h) {
		t := s
		t.hosts[h].running = true
		add(h, "lets its copy run", t)
	}
	if early := m.clear || !r.clear; m.up && m.phase == idle && r.early && early && h == 0 && !m.has && !m.begun && int(s.lives) < r.lives {
		t := s
		u := &t.hosts[h]
		u.has, u.begun, u.clear, u.life, u.epoch, u.running = true, true, false, s.lives, 1, true
		u.permit()
		t.lives++
		add(h, "lets a new copy run, and claims it later", t)
	}
	if m.up && m.running && m.phase == idle {
		t := s
		t.hosts[h].running = false
		add(h, "holds its copy", t)
	}
}

// halt is the end of a daemon.
func (s *situation) halt(h int8) {
	s.forsake(h)
	m := &s.hosts[h]
	m.began, m.unsure = false, false
	m.rest()
}

// renewed makes void what was sent on the condition that a host's session is another one.
func (s *situation) renewed(r rules, h int8) {
	for i := range s.sent {
		if s.sent[i].over && s.sent[i].dead == h && r.session {
			s.sent[i].gone = false
		}
	}
	for i := range s.hosts {
		if s.hosts[i].phase == taking && s.hosts[i].there.owner == h {
			s.hosts[i].same = false
		}
	}
}

// allowed asks the permit of a host for its copy.
func (s situation) allowed(r rules, h int8) bool {
	m := s.hosts[h]
	if !m.permitted {
		return false
	}
	p := Permit{ID: lives[m.permitLife], Epoch: uint64(m.permitEpoch), Boot: boots[m.permitBoot]}
	boot := boots[m.boot]
	if !r.boot {
		boot = p.Boot
	}
	return p.Allows(lives[m.life], uint64(m.epoch), boot)
}

// stepsOfWriting are those of a host that writes something, of whatever kind.
func (s situation) stepsOfWriting(r rules, h int8, add func(int8, string, situation)) {
	m := s.hosts[h]
	if m.unsure {
		t := s
		t.hosts[h].unsure = false
		if r.fence {
			t.cut(h)
			t.renewed(r, h)
		}
		add(h, "writes its session anew", t)
		return
	}
	if slices.Contains(writes, m.phase) && !m.waits {
		t := s
		if t.attempt(r, h) {
			add(h, "looks, and sends what it wants to write", t)
		}
	}
}

// stepsOfOwner are those of a host that wants the endpoint, or has it.
func (s situation) stepsOfOwner(r rules, h int8, add func(int8, string, situation)) {
	m := s.hosts[h]
	if m.phase != idle || m.unsure {
		return
	}
	now := s.record.endpoint()
	if !r.early && !m.has && !m.begun && !s.record.there && int(s.lives) < r.lives {
		t := s
		t.hosts[h].phase, t.hosts[h].life, t.hosts[h].begun = claiming, s.lives, true
		t.lives++
		add(h, "claims", t)
	}
	if r.early && h == 0 && !m.has && !m.begun && !m.clear && !s.record.there {
		t := s
		t.hosts[h].clear = true
		add(h, "sees that nobody has the endpoint", t)
	}
	early := r.early && m.has && m.begun // its copy runs already, or did
	if early {
		t := s
		t.hosts[h].phase = claiming
		add(h, "claims what runs already", t)
	}
	// After a claim or a takeover of which its daemon did not see the end.
	claimed := m.begun && s.record.life == m.life && s.record.epoch == 1
	if !m.has && s.record.there && s.record.owner == h && (claimed || s.record.taken >= 0 || s.restored > 0) {
		t := s
		u := &t.hosts[h]
		u.has, u.begun, u.life, u.epoch = true, false, s.record.life, s.record.epoch
		add(h, "finds that the endpoint is its own, and makes a copy of what it has", t)
	} else if m.begun && !claimed {
		t := s
		u := &t.hosts[h]
		if u.begun = false; early {
			u.has, u.running, u.permitted, u.clear = false, false, false, !s.record.there
		}
		add(h, "finds that its claim did not happen", t)
	}
	if standing := judge(now, m.mine(h)); m.has && (!early || standing != Lost) {
		if standing == Pending && !r.confirmed {
			standing = Owner
		}
		t := s
		u := &t.hosts[h]
		forgotten := standing == Pending && r.restores > 0 || standing == Lost && now == nil && m.restored != s.restored
		switch {
		case forgotten && !m.begun && s.allowed(r, h):
			u.phase = reclaiming
			add(h, "sees that the directory has forgotten it", t)
			return
		case forgotten && !m.begun:
			return // its copy waits until somebody says that nobody else has one
		case standing == Owner:
			u.begun, u.restored = u.begun && !early, s.restored
			u.permit()
		case standing == Lost:
			// What there is of its copy is kept, and never runs again.
			u.has, u.running, u.permitted = false, false, false
		}
		add(h, confirms[standing], t)
		if standing == Owner && !m.running && r.lives > 1 {
			t := s
			t.hosts[h].phase, t.hosts[h].permitted = releasing, false
			add(h, "releases", t)
		}
	}
	dead := s.record.owner
	if s.record.there && dead != h && (!s.hosts[dead].up || !r.promise) && s.record.epoch < uint8(r.epochs) {
		t := s
		u := &t.hosts[h]
		u.phase, u.there, u.same = taking, s.record, true
		add(h, "takes over", t)
	}
}

// stepsOfMove are those of a move, at its source and at its target.
func (s situation) stepsOfMove(r rules, h int8, add func(int8, string, situation)) {
	m := s.hosts[h]
	if m.phase == idle && m.has && !m.unsure && judge(s.record.endpoint(), m.mine(h)) == Owner && m.epoch < uint8(r.epochs) {
		for to := range int8(r.hosts) {
			if to != h && (!m.running || !r.stop) {
				t := s
				t.hosts[h].phase, t.hosts[h].target = preparing, to
				add(h, "begins to move it", t)
			}
		}
	}
	if m.phase == prepared {
		if to := s.hosts[m.target]; to.up && to.began && to.phase == idle && !to.unsure {
			t := s
			t.hosts[h].phase = copied
			u := &t.hosts[m.target]
			u.has, u.running, u.life, u.epoch = true, false, m.life, m.epoch+1
			add(h, "sends its copy", t)
		}
	}
	if m.phase == copied {
		t := s
		t.hosts[h].phase = transferring
		if r.surrender {
			t.hosts[h].permitted = false
		}
		add(h, "gives it to the target", t)
	}
	if slices.Contains([]phase{preparing, prepared, copied, transferring}, m.phase) && !m.waits {
		t := s
		if t.hosts[h].phase = undoing; !r.undo {
			t.hosts[h].unsure = false
			t.hosts[h].rest()
			add(h, "gives the move up, and writes nothing", t)
		} else if !m.unsure {
			add(h, "gives the move up", t)
		}
	}
	// The target drops its copy when it sees that it does not become the owner by this move.
	if m.phase == idle && m.has && !m.running && judge(s.record.endpoint(), m.mine(h)) == Pending {
		if coming := states[s.record.state] == Moving && s.record.target == h; !coming || !r.keepCopies {
			t := s
			t.hosts[h].has, t.hosts[h].permitted = false, false
			add(h, "drops a copy that it was sent", t)
		}
	}
}
