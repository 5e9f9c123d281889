package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/copies"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// gather adds to the connections what a copy needs of all other sockets of the app, which
// is frozen.
func (s *savedConnections) gather(ctx context.Context, a *App, ns *netns.NS, pids []int) error {
	g := copies.NewGatherer(copies.Options{NS: ns, Local: a.ownAddress(s.network.Addresses...), Number: copies.Numbers()})
	if err := hold.EachSocket(ctx, pids, g.Visit); err != nil {
		return err
	}
	s.addFound(g.Found())
	s.options = g.Found().Options
	a.remarkShared(g.Found().Shared)
	return nil
}

// gatherHeld does the same for an app that is held. What options its sockets have was
// saved with it.
func (s *savedConnections) gatherHeld(a *App) error {
	g := copies.NewGatherer(copies.Options{Local: a.ownAddress(s.network.Addresses...)})
	if err := a.held.EachSocket(g.Visit); err != nil {
		return err
	}
	s.addFound(g.Found())
	var err error
	s.options, err = readOptions(a.hibernation())
	return err
}

func (s *savedConnections) addFound(found *copies.Found) {
	s.Refused = append(s.Refused, found.Refused...)
	for _, c := range found.Over {
		if reason := s.addOver(c); reason != "" {
			s.Refused = append(s.Refused, tcprepair.Refused{Inode: c.Ends[0].Inode, Reason: reason})
		}
	}
}

// ownAddress tells whether an address is the app's own, or one of those that it has given
// itself.
func (a *App) ownAddress(more ...netip.Addr) func(netip.Addr) bool {
	rec, _ := a.Read()
	four, six := rec.Inside()
	return func(addr netip.Addr) bool {
		return addr.IsLoopback() || addr == four || addr == six || slices.Contains(more, addr)
	}
}

func (a *App) remarkShared(shared []string) {
	for _, what := range shared {
		a.Remark(fmt.Sprintf("several sockets share %s (SO_REUSEPORT): if a BPF program chooses among them, copies of the app do not have it", what),
			"let the program attach it again in a copy: a template's rules can send it a signal")
	}
}

// addOver adds a connection that is over, or tells why a copy can't have it.
func (s *savedConnections) addOver(c tcprepair.Connection) (reason string) {
	end := &c.Ends[0]
	for i := range s.Connections {
		for j := range s.Connections[i].Ends {
			if other := &s.Connections[i].Ends[j]; other.Local == end.Local && other.Remote == end.Remote {
				return "it is over, has data that was not read, and its addresses are those of another one by now"
			}
		}
	}
	return s.addSized(c)
}

// writeOptions makes the file of socket options of something that is saved.
func writeOptions(to snapshot.Dir, options sockopt.Saved) error {
	if len(options.Sockets) == 0 {
		return nil
	}
	b, err := sockopt.Encode(options)
	if err == nil {
		err = os.WriteFile(to.Sockets(), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write socket options: %w", err)
	}
	return nil
}

// readOptions reads it; a snapshot without has none.
func readOptions(from snapshot.Dir) (sockopt.Saved, error) {
	b, err := os.ReadFile(from.Sockets())
	if errors.Is(err, fs.ErrNotExist) {
		return sockopt.Saved{}, nil
	}
	if err != nil {
		return sockopt.Saved{}, fmt.Errorf("read socket options: %w", err)
	}
	saved, err := sockopt.Decode(b)
	if err != nil {
		return saved, fmt.Errorf("read socket options: %w: %w", snapshot.ErrDamaged, err)
	}
	return saved, nil
}

// unheldOptions are the options of those sockets of a held app that CRIU makes again when
// it is woken.
func (a *App) unheldOptions() (sockopt.Saved, error) {
	saved, err := readOptions(a.hibernation())
	held := a.heldInodes()
	saved.Sockets = slices.DeleteFunc(saved.Sockets, func(s sockopt.Socket) bool { return held[s.Inode] })
	return saved, err
}

// sameOptions wraps what is called when all processes are there and none runs: then
// their sockets get the options that they had.
func (a *App) sameOptions(ns *netns.NS, options func() (sockopt.Saved, error), next func(context.Context, int) error) func(context.Context, int) error {
	if options == nil {
		return next
	}
	return func(ctx context.Context, pid int) error {
		saved, err := options()
		if err != nil {
			return err
		}
		if len(saved.Sockets) == 0 {
			return nextReady(ctx, pid, next)
		}
		pids, err := a.cgroup().PIDs()
		if err != nil {
			return err
		}
		place := copies.Place{NS: ns, Root: pid, PIDs: pids}
		problems, err := place.Apply(ctx, saved)
		if err != nil {
			return err
		}
		a.remarkProblems(problems)
		return nextReady(ctx, pid, next)
	}
}

func nextReady(ctx context.Context, pid int, next func(context.Context, int) error) error {
	if next == nil {
		return nil
	}
	return next(ctx, pid)
}

// remarkProblems tells what sockets have otherwise, the same of many sockets once.
func (a *App) remarkProblems(problems []copies.Problem) {
	const most = 10
	for i, p := range problems {
		if i == most {
			rest := make(map[string]bool)
			for _, p := range problems[most:] {
				rest[p.Socket.What] = true
			}
			a.Remark(fmt.Sprintf("%d more options of sockets are otherwise than they were: of %s", len(problems)-most, strings.Join(slices.Sorted(maps.Keys(rest)), ", ")), "")
			return
		}
		a.Remark(p.String(), "")
	}
}
