// Package source is what apps are made of: an open snapshot, with what is read of it when it is
// first needed, the record that an app begins with, and what copies of an app have in common.
package source

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem/sockopt"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Source is an open snapshot that apps are made of, and what is read of it when it is first needed.
type Source struct {
	*store.Snapshot

	once     sync.Once // see Connections
	saved    *tcprepair.Saved
	savedErr error

	optionsOnce sync.Once // see SocketOptions
	options     sockopt.Saved
	optionsErr  error
}

// Connections are those inside that an app gets which is made of the snapshot.
func (s *Source) Connections(policy template.ConnectionPolicy) ([]tcprepair.Connection, error) {
	if policy == template.ConnectionReset || s.Manifest.Connections == 0 {
		return nil, nil
	}
	if err := s.Checked(); err != nil {
		return nil, err
	}
	s.once.Do(func() { s.saved, s.savedErr = netstate.ReadConnections(s.Dir, s.Manifest) })
	if s.savedErr != nil {
		return nil, s.savedErr
	}
	return s.saved.Connections, nil
}

// SocketOptions are what the other sockets of an app get that is made of the snapshot.
func (s *Source) SocketOptions() (sockopt.Saved, error) {
	if err := s.Checked(); err != nil {
		return sockopt.Saved{}, err
	}
	s.optionsOnce.Do(func() { s.options, s.optionsErr = netstate.ReadOptions(s.Dir) })
	return s.options, s.optionsErr
}

// Inspect looks into the images of a snapshot that has been checked. Each copy of an app
// that had ended starts its program anew: it has none.
func (s *Source) Inspect(ctx context.Context) (*inspect.Info, error) {
	if s.Manifest.Processes == 0 {
		return &inspect.Info{}, nil
	}
	return inspect.Read(ctx, s.Dir.Images(), s.Manifest.BaseNames()...)
}

// RecordOf is the record of an app to be made from a snapshot, but for its name
// and endpoint.
func RecordOf(m *snapshot.Manifest) (*app.Record, error) {
	spec := *m.Spec
	rec := &app.Record{
		Spec: &spec, Address: app.Address{Network: m.Network},
		Files: app.Files{Memory: m.MemoryFiles(), HostFiles: slices.Clone(m.HostFiles), Layers: slices.Clone(m.Layers)},
	}
	for i := range rec.Layers {
		rec.Layers[i].Own = false
	}
	for i := range rec.HostFiles {
		rec.HostFiles[i].Own = false
	}
	var err error
	if rec.Inside4, err = netip.ParseAddr(m.Endpoint); err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	if m.Endpoint6 != "" {
		if rec.Inside6, err = netip.ParseAddr(m.Endpoint6); err != nil {
			return nil, fmt.Errorf("endpoint: %w", err)
		}
	}
	return rec, rec.HeedPolicy(m.Policy)
}
