package checkpoint

import (
	"context"
	"maps"
	"os"
	"slices"

	"github.com/snapctl/snapctl/runtime/checkpoint/veil"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/paths"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/netconf"
	"github.com/snapctl/snapctl/vem/netns"
)

// Saving says how an app is saved.
type Saving struct {
	Target string // the directory that is made
	// Manifest is what is known of the app; what is external, and the rest of what was
	// saved, is added.
	Manifest snapshot.Manifest
	Seen     *paths.Seen      // by Preflight
	Settings netconf.Settings // of its network namespace
	Whole    bool             // as in snapshot.TakeOptions
	// Thorough looks for what leads out of the app in a way that misses nothing, and takes
	// longer. A copy is always made so.
	Thorough bool
	// End ends the processes when they are saved. It is for Copy: Hibernate always does so.
	End  bool
	Step func(name string) // as in snapshot.TakeOptions
	// At is called at each point that tells of a crash how far it had come, by the names that
	// the tables of the operations have: see package journal. An error is one of the operation.
	At func(ctx context.Context, step string) error
	// Hold is given what is held of the frozen app, and owns it from then on. When it has
	// returned nil the processes may end. It is for Hibernate.
	Hold func(ctx context.Context, set *hold.Set) error
	// Alarm is as in snapshot.TakeOptions. It is for Hibernate.
	Alarm func(first *alarm.Alarm) error
}

// Taken is what was saved.
type Taken struct {
	*snapshot.Taken
	// External is what CRIU was told to leave alone, before the app was frozen.
	External []snapshot.External
}

// taking is an app that is being saved.
type taking struct {
	snapshot.TakeOptions
	t     *Tools
	s     *Subject
	o     Saving
	ns    *netns.NS
	guard *guard
	hold  collect.Options
	host  *hostFiles

	criu    int        // CRIU's process, if it is apart from the mounts of the host; 0 if not
	veil    *veil.Veil // the connections that were hidden from it; nil without
	veilDir string     // empty without
}

// close lets go of what is only needed while the app is saved.
func (o *taking) close() {
	if o.veilDir != "" {
		_ = os.RemoveAll(o.veilDir) // or the next daemon does: it is partial
	}
	o.host.unpin()
	_ = o.guard.Close() // a lock
	_ = o.ns.Close()    // a handle
}

// take runs CRIU, and notes what it could not save.
func (o *taking) take(ctx context.Context) (*Taken, error) {
	taken, err := snapshot.Take(ctx, o.t.CRIU, o.TakeOptions)
	if err != nil {
		return nil, err
	}
	for _, n := range taken.Notes {
		o.s.Note(n, "")
	}
	return &Taken{Taken: taken, External: o.Manifest.External}, nil
}

// begin finds all that CRIU must be told before the app is frozen. The caller closes it.
func (t *Tools) begin(ctx context.Context, s *Subject, o Saving, after snapshot.After) (_ *taking, err error) {
	ns, err := netns.Open(s.Box.NetPath())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = ns.Close() // a handle
		}
	}()
	external, dump, err := externals(s)
	if err != nil {
		return nil, err
	}
	host, err := t.warmHostFiles(ctx, s, after)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			host.unpin()
		}
	}()
	kept := slices.Sorted(maps.Keys(host.have))
	dump = append(dump, kept...)
	opt := s.HoldOptions(ns, append(kept, logKey(external)))
	opt.Copy = after == snapshot.GoOn
	opt.Thorough = o.Thorough || opt.Copy
	sockets, err := unixExternals(ctx, s, opt)
	if err != nil {
		return nil, err
	}
	lent, err := lentFiles(ctx, s, opt)
	if err != nil {
		return nil, err
	}
	dump = append(dump, lent...)
	for _, e := range sockets {
		external, dump = append(external, e), append(dump, e.Key)
	}
	bases, err := t.mappedMemory(s)
	if err != nil {
		return nil, err
	}
	dump = append(dump, slices.Sorted(maps.Keys(bases))...)
	g, err := openGuard(s)
	if err != nil {
		return nil, err
	}
	o.Manifest.External = external
	c := &taking{
		t: t, s: s, o: o, ns: ns, guard: g, host: host, hold: opt,
		TakeOptions: snapshot.TakeOptions{
			Target: o.Target, PID: s.PID, Cgroup: s.cgroup(), Root: s.Box.Root(), Work: s.work(),
			External: dump, After: after, Guard: g.File, Layers: t.Layers,
			MemoryOptions: snapshot.MemoryOptions{
				Store: t.Memory, Bases: bases, Whole: o.Whole, Last: t.last(o.Manifest.App),
				Remark: func(text string) { s.Note(text, "") },
			},
			Hooks:    snapshot.Hooks{Thawing: s.PutBackTerminals, Step: o.Step},
			Manifest: o.Manifest,
		},
	}
	c.Start = c.start
	return c, nil
}

func (t *Tools) last(app string) snapshot.Dir {
	if t.Last == nil {
		return ""
	}
	return t.Last(app)
}
