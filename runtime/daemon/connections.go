package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netconf"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// savedConnections are those connections inside an app that are written to a snapshot.
type savedConnections struct {
	tcprepair.Saved
	size    int
	options sockopt.Saved // of all other sockets
	network netconf.Settings
}

// saveConnections saves the TCP connections inside an app, whose sockets open finds:
// the app is frozen, or held. If it fails the app's connections are as before.
func (d *Daemon) saveConnections(ctx context.Context, a *App, ns *netns.NS, network netconf.Settings, open func(*hold.Inside) error) (_ *savedConnections, err error) {
	rec, _ := a.Read()
	four, six := rec.Inside()
	in, err := hold.FindInside(ns, append([]netip.Addr{four, six}, network.Addresses...)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	saved := &savedConnections{network: network}
	if len(in.Connections) == 0 {
		return saved, fault.Point(ctx, fault.SnapshotInRepair) // with none of them
	}
	if err := open(in); err != nil {
		return nil, err
	}
	done, err := a.beginRepair(in)
	if err != nil {
		return nil, err
	}
	opt := tcprepair.SaveOptions{Paused: func() error { return fault.Point(ctx, fault.SnapshotInRepair) }}
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
				saved.Refused = append(saved.Refused, tcprepair.Refused{Inode: e.Inode, Reason: reason})
			}
		}
	}
	return saved, done()
}

// saveHeldConnections is saveConnections for an app that is held.
func (d *Daemon) saveHeldConnections(ctx context.Context, a *App) (_ *savedConnections, err error) {
	ns, err := netns.Open(a.box.NetPath())
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // a handle
	network, err := readNetwork(a.hibernation())
	if err != nil {
		return nil, err
	}
	return d.saveConnections(ctx, a, ns, network, func(in *hold.Inside) error { return in.OpenHeld(a.held) })
}

// add saves one connection, or tells why a copy can't have it.
func (s *savedConnections) add(opt tcprepair.SaveOptions, c hold.Connection) (reason string, err error) {
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
func (s *savedConnections) addSized(conn tcprepair.Connection) (reason string) {
	if s.size += conn.Size(); s.size > tcprepair.MaxSaved {
		return fmt.Sprintf("more than %d MiB wait in the app's connections", tcprepair.MaxSaved>>20)
	}
	s.Connections = append(s.Connections, conn)
	return ""
}

func endsOf(c hold.Connection) []tcprepair.End {
	ends := make([]tcprepair.End, len(c.Ends))
	for i, e := range c.Ends {
		ends[i] = tcprepair.End{FD: int(e.File.Fd()), Inode: e.Inode, Queued: e.Queued}
	}
	return ends
}

// write makes the snapshot's files.
func (s *savedConnections) write(to snapshot.Dir) error {
	if err := errors.Join(writeOptions(to, s.options), writeNetwork(to, s.network)); err != nil {
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

// readConnections reads a snapshot's file; one without has none.
func readConnections(from snapshot.Dir, m *snapshot.Manifest) (*tcprepair.Saved, error) {
	b, err := os.ReadFile(from.Connections())
	if errors.Is(err, fs.ErrNotExist) && m.Connections == 0 {
		return &tcprepair.Saved{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read connections: %w", err)
	}
	s, err := tcprepair.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("read connections: %w: %w", snapshot.ErrDamaged, err)
	}
	if len(s.Connections) != m.Connections {
		return nil, fmt.Errorf("read connections: %w: %d, and %d in the manifest", snapshot.ErrDamaged, len(s.Connections), m.Connections)
	}
	return &s, nil
}

// repairFile lists the sockets that may be in repair mode, with the socket options that the
// mode overwrites. If this daemon is killed, the next one ends the mode before the app goes
// on.
func (a *App) repairFile() string { return filepath.Join(a.work(), "repair.json") }

// beginRepair writes that list; done removes it.
func (a *App) beginRepair(in *hold.Inside) (done func() error, err error) {
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
	if err := os.WriteFile(a.repairFile(), b, 0o600); err != nil {
		return nil, fmt.Errorf("list sockets to save: %w", err)
	}
	return func() error { return os.Remove(a.repairFile()) }, nil
}

// endRepair ends what a killed daemon has left of saveConnections. The app is frozen or
// held, as it was then.
func (a *App) endRepair(ctx context.Context) (err error) {
	b, err := os.ReadFile(a.repairFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read list of sockets to save: %w", err)
	}
	var reuse map[uint64]int
	if err := json.Unmarshal(b, &reuse); err != nil {
		return errors.Join(err, os.Remove(a.repairFile())) // it was not complete, so nothing had begun
	}
	in := &hold.Inside{}
	for inode := range reuse {
		in.Connections = append(in.Connections, hold.Connection{Ends: []hold.ConnectionEnd{{Inode: inode}}})
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if a.held != nil {
		err = in.OpenHeld(a.held)
	} else {
		var pids []int
		if pids, err = a.cgroup().PIDs(); err == nil {
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
	return os.Remove(a.repairFile())
}
