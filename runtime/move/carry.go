package move

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/snapshot"
)

// FilesKind is the kind of the streams that carry the snapshots of apps that move.
const FilesKind = "move-files"

func (m *Mover) stores() cargo.Stores {
	s := m.opt.Engine.Storage
	return cargo.Stores{Memory: s.Memory, Layers: s.Layers, HostFiles: s.HostFiles}
}

func carried(p cargo.Progress) Carried {
	return Carried{Sent: p.SentBytes, Saved: p.SavedBytes, Done: p.DoneBytes, Total: p.TotalBytes}
}

// carry has the target have the last snapshot of a journey, by the same name.
func (m *Mover) carry(ctx context.Context, f *farewell, told func(Carried)) (Carried, error) {
	dir, _, err := m.opt.Engine.Store.Find(f.snapshot)
	if err != nil {
		return Carried{}, err
	}
	s, err := m.opt.Hosts.Open(ctx, f.to, FilesKind)
	if err != nil {
		return Carried{}, err
	}
	defer s.Close()
	p, err := cargo.Send(ctx, s, dir, m.stores(), cargo.SendOptions{Bandwidth: f.bandwidth, Progress: func(p cargo.Progress) {
		if told != nil {
			told(carried(p))
		}
	}, Peer: f.to, Features: m.here.Features})
	return carried(p.Progress), err
}

// ServeFiles takes a snapshot of an app that another host is moving to this one: of a journey that Serve has
// welcomed from there.
func (m *Mover) ServeFiles(ctx context.Context, from string, s Stream) error {
	free := func() {}
	defer func() { free() }()
	name := ""
	got, err := cargo.Receive(ctx, s, m.stores(), cargo.ReceiveOptions{Place: func(o *snapshot.Manifest) (string, error) {
		if !o.Passing || !m.journeys.from(journeyOf(o.Name), from) {
			return "", errMalformed
		}
		dir, done, err := m.opt.Engine.Store.Reserve(o.Name, o.App)
		if err != nil {
			return "", err
		}
		free, name, o.Name = done, o.Name, filepath.Base(string(dir))
		return string(dir), nil
	}, Peer: from})
	if err != nil {
		m.opt.Engine.Storage.SweepSoon()
		return refused(err)
	}
	got.Release() // the manifest names all that it needs
	free()
	free = func() {}
	if !m.journeys.from(journeyOf(name), from) { // it has ended meanwhile, and has looked for what to remove
		m.forget(ctx, name)
	}
	return nil
}

// journeys are those of other hosts' apps to this host that are under way, by their names.
type journeys struct {
	mu   sync.Mutex
	host map[string]string
}

func (j *journeys) from(journey, host string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	from, ok := j.host[journey]
	return ok && from == host
}

// begin tells whether there was no such journey yet.
func (j *journeys) begin(journey, host string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.host[journey]; ok {
		return false
	}
	if j.host == nil {
		j.host = make(map[string]string)
	}
	j.host[journey] = host
	return true
}

func (j *journeys) end(journey string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.host, journey)
}
