package daemon

import (
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/metrics"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// state is what there is now, for who reads the metrics.
func (d *Daemon) state() metrics.State {
	s := metrics.State{Apps: make(map[string]int), Pools: make(map[string]metrics.Pool)}
	files, layers := make(sharing), make(sharing)
	ready := make(map[string]int) // by template
	for _, a := range d.engine.Apps.List() {
		rec, _ := a.Read()
		s.Apps[string(rec.Now())]++
		if rec.Now() == app.Held {
			s.HeldSockets += len(a.Endpoint.HeldInodes())
		}
		if rec.Now() == app.Pooled {
			ready[rec.Pool]++
		}
		for _, f := range rec.Memory {
			files.add(&s.Memory, f.ID, f.SizeBytes)
		}
		for _, l := range rec.Layers {
			layers.add(&s.Files, l.ID, l.SizeBytes)
		}
	}
	for _, t := range d.clones.Catalog.List() {
		if size := d.clones.Catalog.Ready(t); size > 0 || ready[t.Name] > 0 {
			s.Pools[t.Name] = metrics.Pool{Size: size, Ready: ready[t.Name]}
		}
	}
	return s
}

// sharing are the files that some app uses.
type sharing map[memory.ID]bool

// add counts a file that one more app uses.
func (s sharing) add(to *metrics.Shared, id memory.ID, bytes int64) {
	to.UsedBytes += bytes
	if !s[id] {
		s[id] = true
		to.StoredBytes += bytes
	}
}
