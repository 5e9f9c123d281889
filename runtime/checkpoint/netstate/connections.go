package netstate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem/copies"
	"github.com/snapctl/snapctl/vem/netconf"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Saved is the network state that a snapshot gets.
type Saved struct {
	tcprepair.Saved
	Options  sockopt.Saved    // of sockets that are no ends of connections inside
	Settings netconf.Settings // of the network namespace
	size     int              // of the connections, in bytes
}

// Save saves the network state of an app that is frozen, whose processes are pids. settings
// were read before it was frozen. If it fails the app's connections are as before.
func (a *App) Save(ctx context.Context, ns *netns.NS, settings netconf.Settings, pids []int) (*Saved, error) {
	s, err := a.saveConnections(ctx, ns, settings, func(in *copies.Inside) error { return in.Open(ctx, pids) })
	if err != nil {
		return nil, err
	}
	return s, s.gather(ctx, a, ns, pids)
}

// SaveHeld saves the network state of an app that is held, whose images are in from. It
// refuses an app with a socket that could not be bound in a copy.
func (a *App) SaveHeld(ctx context.Context, from snapshot.Dir) (_ *Saved, err error) {
	ns, err := netns.Open(a.NetPath)
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // a handle
	settings, err := ReadSettings(from)
	if err != nil {
		return nil, err
	}
	s, err := a.saveConnections(ctx, ns, settings, func(in *copies.Inside) error { return in.OpenHeld(a.Held) })
	if err != nil {
		return nil, err
	}
	return s, errors.Join(s.gatherHeld(a, from), a.checkHeldBound(&settings))
}

// Kept is what the images of a held app, in from, have of its network state besides what is held: for an app
// whose sockets are taken along.
func Kept(from snapshot.Dir) (*Saved, error) {
	settings, err := ReadSettings(from)
	if err != nil {
		return nil, err
	}
	options, err := ReadOptions(from)
	return &Saved{Settings: settings, Options: options}, err
}

// saveConnections saves the TCP connections inside an app, whose sockets open finds.
func (a *App) saveConnections(ctx context.Context, ns *netns.NS, settings netconf.Settings, open func(*copies.Inside) error) (_ *Saved, err error) {
	in, err := copies.FindInside(ns, slices.Concat(a.Standard.Addresses, settings.Addresses)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	saved := &Saved{Settings: settings}
	if len(in.Connections) == 0 {
		return saved, a.repairing(ctx) // with none of them
	}
	if err := open(in); err != nil {
		return nil, err
	}
	done, err := a.beginRepair(in)
	if err != nil {
		return nil, err
	}
	opt := tcprepair.SaveOptions{Paused: func() error { return a.repairing(ctx) }}
	for _, c := range in.Connections {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, done())
		}
		reason := c.Refused
		if reason == "" {
			if reason, err = saved.add(opt, c); err != nil {
				return nil, errors.Join(err, done())
			}
		}
		if reason != "" {
			for _, e := range c.Ends {
				saved.Refused = append(saved.Refused, tcprepair.Refused{Inode: e.ImageInode(), Reason: reason})
			}
		}
	}
	return saved, done()
}

// add saves one connection, or tells why a copy can't have it.
func (s *Saved) add(opt tcprepair.SaveOptions, c copies.Connection) (reason string, err error) {
	conn, err := tcprepair.Save(opt, endsOf(c)...)
	var refused *tcprepair.UnsupportedError
	switch {
	case errors.Is(err, tcprepair.ErrStuck):
		return "", err
	case errors.As(err, &refused):
		return refused.What, nil
	case errors.Is(err, tcprepair.ErrInconsistent):
		return err.Error(), nil
	case err != nil:
		return "", err
	}
	return s.addSized(conn), nil
}

// addSized adds a connection if there is room for it.
func (s *Saved) addSized(conn tcprepair.Connection) (reason string) {
	if s.size += conn.Size(); s.size > tcprepair.MaxSaved {
		return fmt.Sprintf("more than %d MiB wait in the app's connections", tcprepair.MaxSaved>>20)
	}
	s.Connections = append(s.Connections, conn)
	return ""
}

func endsOf(c copies.Connection) []tcprepair.End {
	ends := make([]tcprepair.End, len(c.Ends))
	for i, e := range c.Ends {
		ends[i] = tcprepair.End{FD: int(e.File.Fd()), Inode: e.ImageInode(), Queued: e.Queued}
	}
	return ends
}

// Write makes the files of the saved state; there is none of what the app does not have.
func (s *Saved) Write(to snapshot.Dir) error {
	if err := errors.Join(writeOptions(to, s.Options), writeSettings(to, s.Settings)); err != nil {
		return err
	}
	if len(s.Connections) == 0 && len(s.Refused) == 0 {
		return nil
	}
	if err := os.WriteFile(to.Connections(), tcprepair.Encode(s.Saved), 0o600); err != nil {
		return fmt.Errorf("write connections: %w", err)
	}
	return nil
}

// ReadConnections reads the connections of a snapshot with the manifest m. Returns an error
// wrapping [tree.ErrDamaged] if they are not those that the manifest counts.
func ReadConnections(from snapshot.Dir, m *snapshot.Manifest) (*tcprepair.Saved, error) {
	b, err := os.ReadFile(from.Connections())
	if errors.Is(err, fs.ErrNotExist) && m.Connections == 0 {
		return &tcprepair.Saved{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read connections: %w", err)
	}
	s, err := tcprepair.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("read connections: %w: %w", tree.ErrDamaged, err)
	}
	if len(s.Connections) != m.Connections {
		return nil, fmt.Errorf("read connections: %w: %d, and %d in the manifest", tree.ErrDamaged, len(s.Connections), m.Connections)
	}
	return &s, nil
}

// beginRepair lists the sockets that may be in repair mode, in the file Repair; done removes
// the file.
func (a *App) beginRepair(in *copies.Inside) (done func() error, err error) {
	reuse := make(map[uint64]int)
	for _, c := range in.Connections {
		if c.Refused != "" {
			continue
		}
		for _, e := range c.Ends {
			if reuse[e.Inode], err = (tcprepair.End{FD: int(e.File.Fd())}).Reuse(); err != nil {
				return nil, err
			}
		}
	}
	b, err := json.Marshal(reuse)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.Repair, b, 0o600); err != nil {
		return nil, fmt.Errorf("list sockets to save: %w", err)
	}
	return func() error { return os.Remove(a.Repair) }, nil
}

// EndRepair ends what a killed daemon has left of [App.Save] or [App.SaveHeld]. The app is
// frozen or held, as it was then.
func (a *App) EndRepair(ctx context.Context) (err error) {
	b, err := os.ReadFile(a.Repair)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read list of sockets to save: %w", err)
	}
	var reuse map[uint64]int
	if err := json.Unmarshal(b, &reuse); err != nil {
		return errors.Join(err, os.Remove(a.Repair)) // it was not complete, so nothing had begun
	}
	in := &copies.Inside{}
	for inode := range reuse {
		in.Connections = append(in.Connections, copies.Connection{Ends: []copies.ConnectionEnd{{Inode: inode}}})
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if a.Held != nil {
		err = in.OpenHeld(a.Held)
	} else {
		var pids []int
		if pids, err = a.PIDs(); err == nil {
			err = in.Open(ctx, pids)
		}
	}
	if err != nil {
		return err
	}
	for _, c := range in.Connections {
		if c.Refused != "" {
			continue // its process has ended
		}
		if err := endsOf(c)[0].Recover(reuse[c.Ends[0].Inode]); err != nil {
			return err
		}
	}
	return os.Remove(a.Repair)
}
