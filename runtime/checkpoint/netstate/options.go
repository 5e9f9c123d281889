package netstate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem/copies"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// gather adds to the connections what a copy needs of all other sockets of the app, which
// is frozen.
func (s *Saved) gather(ctx context.Context, a *App, ns *netns.NS, pids []int) error {
	g := copies.NewGatherer(copies.Options{NS: ns, Local: a.ownAddress(s.Settings.Addresses...), Number: copies.Numbers()})
	if err := collect.EachSocket(ctx, pids, g.Visit); err != nil {
		return err
	}
	s.addFound(g.Found())
	s.Options = g.Found().Options
	a.noteShared(g.Found().Shared)
	return nil
}

// gatherHeld does the same for an app that is held. The options of its sockets were saved
// when it was hibernated.
func (s *Saved) gatherHeld(a *App, from snapshot.Dir) error {
	g := copies.NewGatherer(copies.Options{Local: a.ownAddress(s.Settings.Addresses...)})
	if err := a.Held.EachSocket(g.Visit); err != nil {
		return err
	}
	s.addFound(g.Found())
	var err error
	s.Options, err = ReadOptions(from)
	return err
}

func (s *Saved) addFound(found *copies.Found) {
	s.Refused = append(s.Refused, found.Refused...)
	for _, c := range found.Over {
		if reason := s.addOver(c); reason != "" {
			s.Refused = append(s.Refused, tcprepair.Refused{Inode: c.Ends[0].Inode, Reason: reason})
		}
	}
}

func (a *App) noteShared(shared []string) {
	for _, what := range shared {
		a.Note(fmt.Sprintf("several sockets share %s (SO_REUSEPORT): if a BPF program chooses among them, copies of the app do not have it", what),
			"let the program attach it again in a copy: a template's rules can send it a signal")
	}
}

// addOver adds a connection that is over, or tells why a copy can't have it.
func (s *Saved) addOver(c tcprepair.Connection) (reason string) {
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

// ReadOptions reads the socket options that were saved; a snapshot without the file has none.
// Returns an error wrapping [tree.ErrDamaged] if they can't be decoded.
func ReadOptions(from snapshot.Dir) (sockopt.Saved, error) {
	b, err := os.ReadFile(from.Sockets())
	if errors.Is(err, fs.ErrNotExist) {
		return sockopt.Saved{}, nil
	}
	if err != nil {
		return sockopt.Saved{}, fmt.Errorf("read socket options: %w", err)
	}
	saved, err := sockopt.Decode(b)
	if err != nil {
		return saved, fmt.Errorf("read socket options: %w: %w", tree.ErrDamaged, err)
	}
	return saved, nil
}

// UnheldOptions are the options of those sockets of a held app that CRIU makes again when
// the app is woken.
func (a *App) UnheldOptions(from snapshot.Dir) (sockopt.Saved, error) {
	saved, err := ReadOptions(from)
	if a.Held == nil {
		return saved, err
	}
	held := make(map[uint64]bool, len(a.Held.Sockets))
	for i := range a.Held.Sockets {
		held[a.Held.Sockets[i].ImageInode()] = true
	}
	saved.Sockets = slices.DeleteFunc(saved.Sockets, func(s sockopt.Socket) bool { return held[s.Inode] })
	return saved, err
}

// SetOptions gives the sockets of restored processes, which are all there and of which none
// runs, the options that they had. root is the first of the processes.
func (a *App) SetOptions(ctx context.Context, ns *netns.NS, root int, saved sockopt.Saved) error {
	if len(saved.Sockets) == 0 {
		return nil
	}
	pids, err := a.PIDs()
	if err != nil {
		return err
	}
	place := copies.Place{NS: ns, Root: root, PIDs: pids}
	problems, err := place.Apply(ctx, saved)
	if err != nil {
		return err
	}
	a.noteProblems(problems)
	return nil
}

// noteProblems tells what sockets have otherwise, the same of many sockets once.
func (a *App) noteProblems(problems []copies.Problem) {
	const most = 10
	for i, p := range problems {
		if i == most {
			rest := make(map[string]bool)
			for _, p := range problems[most:] {
				rest[p.Socket.What] = true
			}
			a.Note(fmt.Sprintf("%d more options of sockets are otherwise than they were: of %s", len(problems)-most, strings.Join(slices.Sorted(maps.Keys(rest)), ", ")), "")
			return
		}
		a.Note(p.String(), "")
	}
}
