// Package leak finds what a test left behind on its scratch hosts and in its
// own process: processes, cgroups, mounts, network namespaces with the devices,
// addresses, routes, rules and nft tables in each, files of the run and state
// directories, and open file descriptors.
//
//	h := host.New(t, host.Config{})
//	h.StartDaemon(...)
//	leak.Check(t, h) // all that comes from now on must be gone at the end
//
// Only what belongs to the hosts and the process is looked at: other tests run
// on the same machine at the same time. What is left when a host is closed is
// an error of its Close.
package leak

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

// What goes away by itself does so in this time: the kernel takes network
// namespaces down in the background, and ends of processes take a moment.
const (
	settleTime = 5 * time.Second
	settlePoll = 50 * time.Millisecond
)

// State is what was there at one time: a name for each thing, such as "alpha:
// cgroup /sys/fs/cgroup/unified/app", and how many there were.
type State map[string]int

func (s State) add(owner, kind, name string) { s[owner+": "+kind+" "+name]++ }

// Since lists what is in s and was not in before, sorted.
func (s State) Since(before State) []string {
	var more []string
	for name, n := range s {
		switch was := before[name]; {
		case was == 0 && n == 1:
			more = append(more, name)
		case n > was:
			more = append(more, fmt.Sprintf("%s (%d, were %d)", name, n, was))
		}
	}
	slices.SortFunc(more, cmp.Compare)
	return more
}

// Take looks at the hosts, those that are not closed, and at this process.
func Take(hosts ...*host.Host) (State, error) {
	s := make(State)
	if err := s.takeSelf(); err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if h.Closed() {
			continue
		}
		if err := s.takeHost(h); err != nil {
			return nil, fmt.Errorf("look at host %s: %w", h.Name(), err)
		}
	}
	return s, nil
}

// Wait waits until nothing is there that was not before, and returns what still
// is when ctx ends.
func Wait(ctx context.Context, before State, hosts ...*host.Host) ([]string, error) {
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for {
		now, err := Take(hosts...)
		if err != nil {
			return nil, err
		}
		more := now.Since(before)
		if len(more) == 0 {
			return nil, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return more, nil
		}
	}
}

// Check fails the test, after it, if there is something then that is not there
// now. Clean-up functions run in reverse: what is to be cleaned up before the
// check must be registered after it.
func Check(t testenv.TB, hosts ...*host.Host) {
	t.Helper()
	before, err := Take(hosts...)
	if err != nil {
		t.Fatalf("look for leaks: %v", err)
	}
	t.Cleanup(func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), settleTime)
		defer cancel()
		more, err := Wait(ctx, before, hosts...)
		if err != nil {
			t.Errorf("look for leaks: %v", err)
		}
		if len(more) > 0 {
			t.Errorf("left behind:\n\t%s", strings.Join(more, "\n\t"))
		}
	})
}
