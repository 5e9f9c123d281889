package directory

import (
	"cmp"
	"net/netip"
	"slices"
)

// The model of who owns an endpoint: some hosts, one endpoint, and a store whose answers get
// lost, and which does what it was sent late, twice, or never. There is no clock: whatever can
// happen next, may. What becomes of the record is decided by the functions of ownership.go.
//
// A host that can't reach the directory is one whose steps with the directory don't happen for a
// while; its own steps still do. That a host is seen alive is not in the model: nothing rests on
// it but a hint to whoever takes over.

// most of each, so that the number of states is finite.
const (
	modelHosts = 3
	modelSent  = 2 // commits that were sent and may happen
)

// rules are what the hosts heed. Each is there for a reason: without it, something bad is found.
type rules struct {
	// How much may happen: lives are claims; a life's epochs are how often its owner changes.
	hosts, crashes, restarts, lives, epochs int

	// The first host has the block of the endpoint's address: it alone claims, and lets a new copy
	// run before its claim has happened.
	early bool

	compare    bool // a commit has the record's revision among its conditions
	fence      bool // after an answer that did not come, the session's entry is written anew
	made       bool // what makes a record can't happen twice, see Session.create
	begin      bool // a daemon that starts writes its session's entry anew
	session    bool // a takeover has the dead host's session among its conditions
	remember   bool // a takeover that is tried again has the session of the first try
	promise    bool // whoever takes over from a host has made sure that it is down
	boot       bool // a permit ends with the boot
	surrender  bool // a host gives its permit up before it sends the transfer
	stop       bool // a host stops its copy before it sends the transfer
	confirmed  bool // the target of a move waits until the record names it
	undo       bool // a move is given up by a write of the record
	clear      bool // a new copy runs before its claim only if its host knows that nobody has the endpoint
	keepCopies bool // the target keeps its copy as long as it may become the owner

	restores int  // how often the directory may be put back from a backup
	settled  bool // that is done only if no owner has changed since the backup
}

func allRules(hosts int) rules {
	return rules{
		hosts: hosts, crashes: 1, restarts: 1, lives: 1, epochs: 3,
		compare: true, fence: true, made: true, begin: true, session: true, remember: true, promise: true, boot: true,
		surrender: true, stop: true, confirmed: true, undo: true, clear: true, keepCopies: true,
		settled: true,
	}
}

// entry is the record of the endpoint.
type entry struct {
	there         bool
	life, epoch   uint8
	owner, target int8
	taken         int8 // -1: not taken over
	state         uint8
}

// nothing is that there is no record.
var nothing = entry{owner: -1, target: -1, taken: -1}

var states = []State{Running, Held, Moving}

var lives = []string{"x", "y", "z"}

var (
	hostNames = []string{"a", "b", "c"}
	boots     = []string{"first boot", "second boot", "third boot"}
)

func hostName(h int8) string { return hostNames[h] }

func hostOf(name string) int8 {
	if name == "" {
		return -1
	}
	return int8(name[0] - 'a')
}

// endpoint is the record as the functions of ownership.go take it.
func (e entry) endpoint() *Endpoint {
	if !e.there {
		return nil
	}
	r := &Endpoint{Network: "n", Addr: netip.AddrFrom4([4]byte{10, 77, 0, 2}), ID: lives[e.life], App: "app", Owner: hostName(e.owner), Epoch: uint64(e.epoch), State: states[e.state]}
	if e.target >= 0 {
		r.Target = hostName(e.target)
	}
	if e.taken >= 0 {
		r.TakenFrom = hostName(e.taken)
	}
	return r
}

func entryOf(e Endpoint) entry {
	return entry{
		there: true, life: uint8(slices.Index(lives, e.ID)), epoch: uint8(e.Epoch),
		owner: hostOf(e.Owner), target: hostOf(e.Target), taken: hostOf(e.TakenFrom), state: uint8(slices.Index(states, e.State)),
	}
}

// phase is what a host is doing with the endpoint.
type phase uint8

const (
	idle         phase = iota
	claiming           // makes the record
	preparing          // says that it moves the endpoint
	prepared           // has said it
	copied             // the target has a copy
	transferring       // gives it to the target
	undoing            // says that it does not move it
	releasing          // ends it
	taking             // takes it over
	reclaiming         // makes it its own again, of which a restored directory knows less
)

// writes are the phases in which something is to be written.
var writes = []phase{claiming, preparing, transferring, undoing, releasing, taking, reclaiming}

// machine is a host. What is above the line is on its disk and outlives all.
type machine struct {
	has         bool // a copy
	begun       bool // a claim of this life, of which it does not know yet whether it has happened
	clear       bool // it has seen that nobody has the endpoint, and has claimed nothing since
	life, epoch uint8
	permitted   bool // by a permit, of that
	permitLife  uint8
	permitEpoch uint8
	permitBoot  uint8
	restored    uint8 // how often the directory had been restored when it said that the copy is the owner's

	boot    uint8
	up      bool
	running bool // the copy runs, and sends
	began   bool // its daemon has a session
	phase   phase
	waits   bool // for an answer
	unsure  bool // no answer came
	target  int8
	there   entry // what it takes over
	same    bool  // the dead host's session is still that of the first try
}

func (m machine) mine(h int8) Endpoint {
	return Endpoint{Network: "n", Addr: netip.AddrFrom4([4]byte{10, 77, 0, 2}), ID: lives[m.life], App: "app", Owner: hostName(h), Epoch: uint64(m.epoch), State: Running}
}

// commit is a transaction that was sent and may happen.
type commit struct {
	used    bool
	by      int8
	next    entry
	absent  bool // on the condition that there is no record, and on made; else on same
	made    bool // the host has made nothing since
	same    bool // the record is that which was read
	session bool // the session is that of then
	over    bool // it takes over from dead, on the conditions that
	dead    int8
	gone    bool // the dead host's session is that of then
	answer  bool // somebody waits for the answer
}

// situation is a state of the model.
type situation struct {
	record   entry
	hosts    [modelHosts]machine
	sent     [modelSent]commit
	lives    uint8
	crashes  uint8
	restarts uint8

	backup   entry // the record at the time of the backup
	changed  bool  // the owner has changed since
	restored uint8 // how often the directory was put back
}

func start(r rules) situation {
	s := situation{record: nothing, backup: nothing}
	for h := range r.hosts {
		s.hosts[h] = machine{up: true, began: true, target: -1, there: nothing}
	}
	if r.lives == 1 { // it is claimed already
		s.lives, s.record = 1, entry{there: true, epoch: 1, target: -1, taken: -1}
		s.hosts[0].has, s.hosts[0].epoch = true, 1
	}
	s.hosts[0].clear = r.early
	return s
}

// tidy makes situations the same that differ in nothing which matters: the order of what was
// sent, and what can't have an effect any more.
func (s situation) tidy(r rules) situation {
	for i, c := range s.sent {
		void := !c.session || c.over && !c.gone || c.absent && !c.made || !c.absent && !c.same && r.compare
		if void && !c.answer {
			s.sent[i] = commit{}
		}
	}
	for h := range s.hosts {
		m := &s.hosts[h]
		if !m.has {
			m.epoch, m.restored = 0, 0
			if m.phase == idle && !m.begun {
				m.life = 0
			}
		}
		if m.permitLife != m.life || m.permitEpoch != m.epoch {
			m.permitted = false
		}
		if !m.permitted {
			m.permitLife, m.permitEpoch, m.permitBoot, m.boot = 0, 0, 0, 0
		}
	}
	slices.SortFunc(s.sent[:], func(a, b commit) int {
		return cmp.Or(-cmp.Compare(bit(a.used), bit(b.used)), cmp.Compare(a.key(), b.key()))
	})
	return s
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// key is a number for the order of commits.
func (c commit) key() uint64 {
	k := uint64(c.by)<<8 | uint64(c.next.epoch)<<4 | uint64(c.next.life)
	for _, b := range []bool{c.next.there, c.absent, c.same, c.made, c.session, c.over, c.gone, c.answer, c.next.state == 1, c.next.state == 2} {
		k = k<<1 | uint64(bit(b))
	}
	return k<<8 | uint64(c.next.owner+1)<<4 | uint64(c.next.target+1)
}

// happen does a commit that was sent, if its conditions hold.
func (s *situation) happen(r rules, i int) bool {
	c := s.sent[i]
	holds := c.same || !r.compare
	if c.absent {
		holds = c.made && (!s.record.there || !r.compare)
	}
	holds = holds && c.session && (!c.over || c.gone)
	if holds {
		s.changed = s.changed || r.restores > 0 && s.record.there && c.next.there && c.next.owner != s.record.owner
		s.record = c.next
		for j := range s.sent {
			s.sent[j].same = false
		}
		for j := range s.sent {
			if c.absent && r.made && s.sent[j].by == c.by {
				s.sent[j].made = false
			}
		}
	}
	return holds
}

// send sends a commit of a host, for the record as it is now.
func (s *situation) send(h int8, next entry, over int8) bool {
	for i := range s.sent {
		if s.sent[i].used {
			continue
		}
		s.sent[i] = commit{used: true, by: h, next: next, absent: !s.record.there, made: true, same: s.record.there, session: true, answer: true}
		if over >= 0 {
			s.sent[i].over, s.sent[i].dead, s.sent[i].gone = true, over, true
		}
		s.hosts[h].waits = true
		return true
	}
	return false
}

// cut makes void what a host has sent and has not happened.
func (s *situation) cut(h int8) {
	for i := range s.sent {
		if s.sent[i].used && s.sent[i].by == h {
			s.sent[i].session = false
		}
	}
}

// forsake is what becomes of a host's commits when nobody waits for their answers any more.
func (s *situation) forsake(h int8) {
	s.hosts[h].waits = false
	for i := range s.sent {
		if s.sent[i].by == h {
			s.sent[i].answer = false
		}
	}
}

// attempt looks at the record and does the next thing of what a host is writing.
func (s *situation) attempt(r rules, h int8) bool {
	m := &s.hosts[h]
	now, mine := s.record.endpoint(), m.mine(h)
	var next Endpoint
	var done bool
	var err error
	over := int8(-1)
	switch m.phase {
	case claiming:
		mine.Epoch = 1
		next, done, err = decideClaim(now, mine)
	case preparing:
		next, done, err = decideUpdate(now, mine, Moving, hostName(m.target))
	case transferring:
		next, done, err = decideTransfer(now, mine, hostName(m.target))
	case undoing:
		next, done, err = decideUpdate(now, mine, Running, "")
	case releasing:
		if done, err = decideRelease(now, mine); err == nil && !done {
			return s.send(h, nothing, -1)
		}
	case taking:
		over = m.there.owner
		next, done, err = decideTakeover(now, *m.there.endpoint(), hostName(h))
		if err == nil && !done && r.remember && !m.same {
			err = &HostError{hostName(over), HostAlive}
		}
	case reclaiming:
		next, done, err = decideReclaim(now, mine)
		next.Revision = 0
	case idle, prepared, copied:
		return false
	}
	switch {
	case err != nil:
		s.refused(h)
	case done:
		s.done(h)
	default:
		return s.send(h, entryOf(next), over)
	}
	return true
}

// done is what a host does when what it wrote has happened.
func (s *situation) done(h int8) {
	m := &s.hosts[h]
	m.waits, m.unsure = false, false
	switch m.phase {
	case preparing:
		m.phase = prepared
		return
	case claiming: // the record names the host: that is as good as to ask for it
		m.epoch, m.has, m.begun = 1, true, false
		m.permit()
	case releasing:
		m.has, m.running, m.clear = false, false, true
	case transferring:
		m.has, m.running = false, false
	case taking:
		m.has, m.running, m.life, m.epoch = true, false, m.there.life, m.there.epoch+1
	case reclaiming:
		m.epoch, m.restored = s.record.epoch, s.restored
		m.permit()
	case undoing, idle, prepared, copied:
	}
	m.rest()
}

// permit gives a host a permit for its copy.
func (m *machine) permit() {
	m.permitted, m.permitLife, m.permitEpoch, m.permitBoot = true, m.life, m.epoch, m.boot
}

// rest ends what a host was doing.
func (m *machine) rest() { m.phase, m.target, m.there, m.same = idle, -1, nothing, false }

// refused is what a host does when what it wanted to write can't be: it has lost the endpoint,
// or never had it. Its copy stays stopped: see judge.
func (s *situation) refused(h int8) {
	m := &s.hosts[h]
	m.waits, m.unsure = false, false
	if m.phase == claiming {
		m.has, m.running, m.permitted, m.begun = false, false, false, false
	} else if m.phase != taking {
		m.running, m.permitted = false, false
	}
	m.rest()
}
