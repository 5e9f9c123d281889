package checkpoint

import (
	"context"
	"maps"
	"os"
	"slices"

	"github.com/snapctl/snapctl/runtime/checkpoint/early"
	"github.com/snapctl/snapctl/runtime/checkpoint/mapped"
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
	Care
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
	// Volatile is as in [snapshot.Partial.Volatile].
	Volatile bool
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

	early   *early.Memory // memory that was copied while the app ran; nil without
	criu    int           // CRIU's process, if it is apart from the mounts of the host; 0 if not
	many    bool          // it may have connections to hide
	veil    *veil.Veil    // the connections that were hidden from it; nil without
	veilDir string        // empty without
}

// close lets go of what is only needed while the app is saved.
func (o *taking) close() {
	if o.veilDir != "" {
		_ = os.RemoveAll(o.veilDir) // or the next daemon does: it is partial
	}
	if o.early != nil {
		o.early.Close()
	}
	o.CloseLast()
	if o.host != nil {
		o.host.unpin()
	}
	if o.guard != nil {
		_ = o.guard.Close() // a lock
	}
	if o.ns != nil {
		_ = o.ns.Close() // a handle
	}
}

// take runs CRIU, and notes what it could not save.
func (o *taking) take(ctx context.Context) (*Taken, error) {
	taken, err := snapshot.Take(ctx, o.t.CRIU, o.TakeOptions)
	if err != nil {
		return nil, o.blame(ctx, err)
	}
	if o.o.Plain {
		o.remarkPlain()
	}
	for _, n := range taken.Notes {
		o.s.Note(n, "")
	}
	return &Taken{Taken: taken, External: o.Manifest.External}, nil
}

// begin finds all that CRIU must be told before the app is frozen. The caller closes it.
func (t *Tools) begin(ctx context.Context, s *Subject, o Saving, after snapshot.After) (_ *taking, err error) {
	bases, err := mapped.Find(t.Memory, s.Memory, s.cgroup().PIDs)
	if err != nil {
		return nil, err
	}
	c := &taking{
		t: t, s: s, o: o,
		TakeOptions: snapshot.TakeOptions{
			Target: o.Target, PID: s.PID, Cgroup: s.cgroup(), Root: s.Box.Root(), Work: s.work(),
			After: after, Layers: t.Layers,
			MemoryOptions: snapshot.MemoryOptions{
				Store: t.Memory, Bases: bases, Whole: o.Whole, Volatile: o.Volatile || o.Manifest.Passing, Last: t.last(o.Manifest.App),
				Remark: func(text string) { s.Note(text, "") },
			},
			Hooks: snapshot.Hooks{Thawing: s.PutBackTerminals, Step: o.Step},
		},
	}
	c.Start = c.start
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	// This takes long, and the app goes on: so all else is looked at after it.
	if err := c.copyAhead(ctx, after == snapshot.End || o.End); err != nil {
		return nil, err
	}
	return c, c.find(ctx)
}

// copyAhead copies memory of the app, which runs, if that is worth while.
func (o *taking) copyAhead(ctx context.Context, ends bool) (err error) {
	if o.t.CopyAhead <= 0 || o.Whole || o.o.Plain {
		return nil
	}
	if o.Step != nil {
		o.Step("copy memory")
	}
	o.early, err = early.Copy(ctx, early.Options{
		App: o.s.Name, PID: o.s.PID, Cgroup: o.Cgroup, Tracer: o.t.Tracer, MiB: o.t.CopyAhead, Target: o.Target, Store: o.Store,
		Earlier: o.OpenLast(ctx), Ends: ends, Volatile: o.Volatile, Log: o.t.Log,
	})
	if o.early != nil {
		o.Ahead = o.early
	}
	return err
}

// strays is an error if processes use files that CRIU could not find. They may have unmapped a memory file
// since that was looked for.
func (o *taking) strays() error {
	inodes, err := mapped.Inodes(o.t.Memory, o.s.Memory)
	if err != nil {
		return err
	}
	return o.o.Seen.Strays(o.External, inodes)
}

// leaveOut has CRIU leave out what was copied of the frozen app and has not changed since.
func (o *taking) leaveOut(ctx context.Context) error {
	if o.early == nil || o.criu == 0 {
		return nil
	}
	return o.early.LeaveOut(ctx, o.criu)
}

// find finds what is external to the app.
func (o *taking) find(ctx context.Context) (err error) {
	s := o.s
	if o.ns, err = netns.Open(s.Box.NetPath()); err != nil {
		return err
	}
	external, dump, err := externals(s)
	if err != nil {
		return err
	}
	if o.host, err = o.t.warmHostFiles(ctx, s, o.After); err != nil {
		return err
	}
	kept := slices.Sorted(maps.Keys(o.host.have))
	dump = append(dump, kept...)
	o.hold = s.HoldOptions(o.ns, append(kept, logKey(external)))
	o.hold.Copy = o.After == snapshot.GoOn
	o.hold.Thorough = o.o.Thorough || o.hold.Copy
	sockets, err := unixExternals(ctx, s, o.hold)
	if err != nil {
		return err
	}
	lent, err := lentFiles(ctx, s, o.hold)
	if err != nil {
		return err
	}
	dump = append(dump, lent...)
	for _, e := range sockets {
		external, dump = append(external, e), append(dump, e.Key)
	}
	o.External = append(dump, slices.Sorted(maps.Keys(o.Bases))...)
	if o.guard, err = openGuard(s); err != nil {
		return err
	}
	o.Guard = o.guard.File
	o.o.Manifest.External = external
	o.Manifest = o.o.Manifest
	return nil
}

func (t *Tools) last(app string) snapshot.Dir {
	if t.Last == nil {
		return ""
	}
	return t.Last(app)
}
