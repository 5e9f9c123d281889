package directory

import (
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
)

// search is all situations that can be reached, in the order in which they were found, with how.
type search struct {
	rules rules
	all   []found
	at    map[situation]int32
	back  [][]int32 // from where each can be reached
}

type found struct {
	situation
	from int32
	how  step // without what was then
}

// bad is something that must not be, with the shortest way there.
type bad struct {
	what string
	way  []string
}

func (b *bad) String() string { return b.what + ":\n  " + strings.Join(b.way, "\n  ") }

// explore looks at all situations, breadth first, up to the first in which two hosts send.
func explore(r rules) (*search, *bad) {
	s := &search{rules: r, at: make(map[situation]int32)}
	s.add(step{then: start(r).tidy(r)}, -1)
	for i := int32(0); int(i) < len(s.all); i++ {
		here := s.all[i].situation
		if here.senders() > 1 {
			return s, s.bad("two hosts send", i)
		}
		for _, step := range here.steps(r) {
			s.add(step, i)
		}
	}
	return s, s.stuck()
}

func (s *search) add(how step, from int32) {
	t := how.then
	i, ok := s.at[t]
	if !ok {
		i = int32(len(s.all))
		s.at[t] = i
		s.all = append(s.all, found{t, from, step{host: how.host, what: how.what}})
		s.back = append(s.back, nil)
	}
	if from >= 0 {
		s.back[i] = append(s.back[i], from)
	}
}

func (s situation) senders() int {
	n := 0
	for _, m := range s.hosts {
		if m.up && m.running {
			n++
		}
	}
	return n
}

// stuck looks for situations from which, whatever happens, nobody has the endpoint running again:
// it is neither released nor can it be got.
func (s *search) stuck() *bad {
	good := make([]bool, len(s.all))
	var open []int32
	for i, f := range s.all {
		if !f.record.there || f.senders() == 1 {
			good[i] = true
			open = append(open, int32(i))
		}
	}
	for len(open) > 0 {
		i := open[len(open)-1]
		open = open[:len(open)-1]
		for _, from := range s.back[i] {
			if !good[from] {
				good[from] = true
				open = append(open, from)
			}
		}
	}
	for i := range good {
		if !good[i] {
			return s.bad("nobody can get the endpoint", int32(i))
		}
	}
	return nil
}

func (s *search) bad(what string, i int32) *bad {
	b := &bad{what: what}
	for ; s.all[i].from >= 0; i = s.all[i].from {
		b.way = append([]string{s.all[i].how.String()}, b.way...)
	}
	return b
}

// Never do two hosts send, and never is there an endpoint that nobody can get.
func TestModel(t *testing.T) {
	for name, r := range map[string]rules{
		"two hosts":            allRules(2),
		"two hosts, two lives": with(allRules(2), func(r *rules) { r.lives, r.restarts, r.epochs = 2, 0, 2 }),
		"two hosts, a block":   with(allRules(2), func(r *rules) { r.early, r.lives, r.restarts, r.epochs = true, 2, 1, 2 }),
		"two hosts, a backup":  with(allRules(2), func(r *rules) { r.restores, r.restarts, r.epochs = 1, 0, 2 }),
		"three hosts":          with(allRules(3), func(r *rules) { r.restarts, r.epochs = 0, 2 }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, bad := explore(r)
			t.Logf("%d situations", len(s.all))
			if bad != nil {
				t.Fatal(bad)
			}
			qt.Check(t, qt.IsTrue(len(s.all) > 1000), qt.Commentf("%d situations", len(s.all)))
		})
	}
}

func with(r rules, change func(*rules)) rules {
	change(&r)
	return r
}

// Without any one of the rules, the model finds what the rule is there for.
func TestModelWithoutARule(t *testing.T) {
	const two, stuck = "two hosts send", "nobody can get the endpoint"
	for name, test := range map[string]struct {
		without func(r *rules)
		want    string
	}{
		"a commit has the record's revision among its conditions":             {func(r *rules) { r.compare = false }, two},
		"after an answer that did not come, the session is written anew":      {func(r *rules) { r.fence, r.lives, r.crashes = false, 2, 0 }, stuck},
		"what makes a record can't happen twice":                              {func(r *rules) { r.made, r.lives, r.crashes = false, 2, 0 }, stuck},
		"a daemon that starts writes its session anew":                        {func(r *rules) { r.begin = false }, two},
		"a takeover has the dead host's session among its conditions":         {func(r *rules) { r.session = false }, two},
		"a takeover that is tried again has the session of the first try":     {func(r *rules) { r.remember = false }, two},
		"whoever takes over has made sure that the host is down":              {func(r *rules) { r.promise = false }, two},
		"a permit ends with the boot":                                         {func(r *rules) { r.boot = false }, two},
		"a host gives its permit up before it sends the transfer":             {func(r *rules) { r.surrender = false }, two},
		"a host stops its copy before it sends the transfer":                  {func(r *rules) { r.stop = false }, two},
		"the target of a move waits until the record names it":                {func(r *rules) { r.confirmed = false }, two},
		"a move is given up by a write of the record":                         {func(r *rules) { r.undo = false }, two},
		"a new copy runs before its claim only where nobody has the endpoint": {func(r *rules) { r.clear, r.early, r.lives, r.restarts, r.epochs = false, true, 2, 0, 2 }, two},
		"the target keeps its copy as long as it may become the owner":        {func(r *rules) { r.keepCopies = false }, stuck},
		"a backup is of a time after which no owner has changed":              {func(r *rules) { r.settled, r.restores, r.restarts, r.epochs = false, 1, 0, 2 }, two},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, bad := explore(with(allRules(2), test.without))
			if bad == nil {
				t.Fatalf("nothing is found in %d situations", len(s.all))
			}
			t.Logf("%d situations: %s", len(s.all), bad)
			qt.Check(t, qt.Equals(bad.what, test.want), qt.Commentf("%s", bad))
		})
	}
}
