package move

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/handover"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/pause"
)

var arriveTable = journal.Table{
	Name: string(event.Arrive), Doing: string(app.Moving), From: []string{""},
	Steps: []journal.Step{
		{Name: "begun", Means: "the app is recorded, with its address, which is the other host's", Keep: journal.UntilReboot},
		{Name: "furnished", Means: "its files, its images and its sandbox are made, connected and in no network"},
		{Name: "received", Means: "its sockets are held, silent; what the directory says decides", Keep: journal.Forever, Must: true},
		{Name: "owned", Means: "the endpoint is this host's", Commits: true},
		{Name: "attached", Means: "the endpoint is in its network, and the sockets may talk"},
		{Name: "recorded", Means: "the app is recorded as held", Keep: journal.Forever, Ends: string(app.Held)},
		{Name: "armed", Means: "the wake policy is armed"},
	},
}

// arrival is an app that comes.
type arrival struct {
	prepare
	offer *offer
	talk  conversation
	op    *event.Operation
	saved *handover.Saved
	made  *handover.Restored // the sockets; nil: none are made yet
	ns    *netns.NS          // of the app, in which they are; the caller of receive closes it

	copied []string // layers that can't be shared, see storage.Copies
	given  time.Time
	opened time.Duration
}

// savedFile has what the sockets of an app that has come were made of, until they talk.
func savedFile(a *engine.App) string { return filepath.Join(a.Dir(), "arrival.bin") }

// enroll gives the app that comes its name and its place.
func (m *Mover) enroll(ctx context.Context, src *source.Source, v *arrival) (_ *engine.Run, release func(), err error) {
	rec, err := source.RecordOf(src.Manifest)
	if err != nil {
		return nil, nil, err
	}
	came := v.offer.Record
	came.Files, came.Resume, came.Volatile = rec.Files, v.Wake, v.Wake && v.Volatile
	if v.offer.Ended != nil {
		came.KeepsAddress, came.Exit = true, v.offer.Ended.Exit
	}
	eng := m.opt.Engine
	if v.copied, err = eng.Storage.Copies(ctx, storage.Stack{Layers: came.Layers, Root: came.Spec.Root.Path}); err != nil {
		return nil, nil, err
	}
	if len(v.copied) > 0 {
		came.Layers = nil
	}
	return eng.Enroll(ctx, came, m.arrive, v.op)
}

// furnish makes the app's files and its sandbox.
func (m *Mover) furnish(ctx context.Context, r *engine.Run, src *source.Source, v *arrival) error {
	a, eng := r.Subject, m.opt.Engine
	ns, err := eng.Enclose(ctx, a)
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	if len(v.copied) > 0 {
		if err := layer.Flatten(ctx, v.copied, a.Box.Spec.Root.Path, a.Box.Upper()); err != nil {
			return err
		}
		if err := tree.Sync(ctx, a.Box.Upper()); err != nil { // soon it is the only copy
			return err
		}
	}
	if err := errors.Join(a.Box.Furnish(ctx), src.Checked()); err != nil {
		return err
	}
	if v.offer.Ended != nil { // the rest is for processes
		return r.At(ctx, "furnished")
	}
	if err := errors.Join(eng.Relink(ctx, a), a.Subject().LoadDev(ctx, src.Dir)); err != nil {
		return err
	}
	if err := m.keepImages(ctx, a, src, v); err != nil {
		return err
	}
	if obstacles := restorable.ObstaclesOf(m.obstacles(ctx, a)...); len(obstacles) > 0 {
		return app.Refusef("it could not be woken on host %s: %s", m.opt.Hosts.Self(), obstacles[0].Reason)
	}
	if err := a.Endpoint.Connect(ctx, ns); err != nil {
		return err
	}
	if err := a.Subject().NetState().SetSettings(ns, a.Hibernation()); err != nil {
		return err
	}
	return r.At(ctx, "furnished")
}

// obstacles are what would keep the app from being woken here.
func (m *Mover) obstacles(ctx context.Context, a *engine.App) []error {
	found, err := m.opt.Engine.Checker.Held(ctx, a, snapshot.BySize)
	if err != nil {
		found = append(found, err)
	}
	return found
}

// keepImages makes the images of a held app of the snapshot that came.
func (m *Mover) keepImages(ctx context.Context, a *engine.App, src *source.Source, v *arrival) error {
	kept, err := netstate.Kept(src.Dir)
	if err != nil {
		return err
	}
	_, err = src.Dir.Copy(ctx, snapshot.CopyOptions{
		Target: string(a.Hibernation()), Store: m.opt.Engine.Storage.Memory, Layers: m.opt.Engine.Storage.Layers,
		Volatile:  v.Wake && v.Volatile,
		Change:    func(s *snapshot.Manifest) { s.Name, s.Passing, s.WithStorage = a.Name(), false, false },
		CopyFiles: func(_ context.Context, to snapshot.Dir) error { return kept.Write(to) },
	})
	return err
}

// receive takes the sockets.
func (m *Mover) receive(ctx context.Context, r *engine.Run, v *arrival) error {
	a := r.Subject
	b, err := v.talk.hearBytes(handover.MaxEncoded)
	if err != nil {
		return err
	}
	if v.offer.Ended != nil {
		return r.At(ctx, "received")
	}
	if v.saved, err = m.decode(a, b); err != nil {
		return err
	}
	if err := journal.Replace(savedFile(a), b, journal.UntilReboot); err != nil {
		return fmt.Errorf("keep the sockets of an app that comes: %w", err)
	}
	if v.ns, err = m.opt.Engine.Enclose(ctx, a); err != nil {
		return err
	}
	if v.made, err = handover.Restore(ctx, v.ns, v.saved); err != nil {
		return err
	}
	if err := a.Endpoint.Hold(ctx, v.made.Set); err != nil {
		return err
	}
	a.Amend(func(rec *app.Record) { rec.Boot = m.opt.Engine.VEM.Boot() })
	return r.At(ctx, "received")
}

// decode reads what the sockets of an app are made of. A peer on this host is one that the app saw on another one.
func (m *Mover) decode(a *engine.App, b []byte) (*handover.Saved, error) {
	saved, err := handover.Decode(b)
	if err != nil {
		return nil, err
	}
	here := make(map[netip.Addr]netip.Addr)
	for near, far := range m.opt.Engine.VEM.Appearances(a.Endpoint.Claim().Network) {
		here[far] = near
	}
	saved.Readdress(here)
	return saved, nil
}

// decided waits until the directory says whose the endpoint is. It gives up when ctx ends, and it is not known then.
func (m *Mover) decided(ctx context.Context, a *engine.App) (directory.Standing, error) {
	for {
		reg, err := m.registrar()
		s := directory.Pending
		if err == nil {
			s, err = reg.Arrived(ctx, spotOf(a))
		}
		if err == nil && s != directory.Pending {
			return s, nil
		}
		if !pause.For(ctx, askAgain, nil) {
			return s, errors.Join(errUndecided, err)
		}
	}
}

// askAgain is how long it takes until the directory is asked again.
const askAgain = 100 * time.Millisecond

// take makes the app this host's, when the directory says that it is.
func (m *Mover) take(ctx context.Context, r *engine.Run, v *arrival) error {
	a := r.Subject
	s, err := m.decided(ctx, a)
	if err != nil {
		return err
	}
	if s != directory.Owner {
		return app.Refusef("app %s stays on the host that it was to come from", a.Name())
	}
	if err := r.At(ctx, "owned"); err != nil {
		return err
	}
	return m.open(context.WithoutCancel(ctx), r, v)
}

// open has an app be in its network, and its sockets talk.
func (m *Mover) open(ctx context.Context, r *engine.Run, v *arrival) error {
	a := r.Subject
	if rec, _ := a.Read(); rec.KeepsAddress {
		return m.settleStopped(ctx, r)
	}
	ns, err := m.opt.Engine.Prepare(ctx, a)
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	if v != nil && v.made != nil {
		err = v.made.Release(ctx)
	} else if held := a.Endpoint.Held(); held != nil {
		err = m.resume(ctx, a)
	}
	if err != nil {
		return err
	}
	if v != nil {
		v.opened = time.Since(v.given)
	}
	if err := r.At(ctx, "attached"); err != nil {
		return err
	}
	if err := os.Remove(savedFile(a)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return m.opt.Engine.BecomeHeld(ctx, r)
}

// resume lets sockets talk that an earlier daemon has made.
func (m *Mover) resume(ctx context.Context, a *engine.App) error {
	b, err := os.ReadFile(savedFile(a))
	if errors.Is(err, os.ErrNotExist) {
		return nil // they do
	}
	if err != nil {
		return fmt.Errorf("read the sockets of an app that came: %w", err)
	}
	saved, err := m.decode(a, b)
	if err != nil {
		return err
	}
	ns, err := m.opt.Engine.Enclose(ctx, a)
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	again, err := handover.Resume(ns, a.Endpoint.Held(), saved)
	if err != nil {
		return err
	}
	return again.Release(ctx)
}

// hasArrived tells whether the endpoint is this host's.
func (m *Mover) hasArrived(ctx context.Context, r *engine.Run) (bool, error) {
	a := r.Subject
	if rec, _ := a.Read(); rec.Operation.Step != "received" {
		return false, nil
	}
	reg, err := m.registrar()
	if err != nil {
		return false, fmt.Errorf("%w: %w", errUndecided, err)
	}
	s, err := reg.Arrived(ctx, spotOf(a))
	if err == nil && s != directory.Pending {
		return s == directory.Owner, nil
	}
	return false, errors.Join(errUndecided, err)
}

// settle has an app sleep at this host, or be stopped there, whose endpoint is this host's.
func (m *Mover) settle(ctx context.Context, r *engine.Run) error {
	a := r.Subject
	if rec, _ := a.Read(); !rec.KeepsAddress && a.Endpoint.Held() == nil {
		if err := a.Reclaim(ctx); err != nil {
			return err
		}
	}
	return m.open(ctx, r, nil)
}

// dismiss removes what there is of an app that does not come.
func (m *Mover) dismiss(ctx context.Context, r *engine.Run) error {
	at := spotOf(r.Subject)
	if err := m.opt.Engine.Expunge(ctx, r.Subject); err != nil {
		return err
	}
	reg, err := m.registrar()
	if err != nil {
		return err
	}
	return reg.Dismiss(at)
}
