package daemon

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"time"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/paths"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/copies"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/holder"
	"github.com/snapctl/snapctl/vem/netns"
)

// outcome is what a long operation tells when it has succeeded.
type outcome struct {
	sockets []socketOutcome // those that were not simply kept
	notes   []app.Note      // see app.remark
}

// hibernate saves a running app, ends its processes and holds its sockets. If
// it fails, the app runs as before.
//
// An app that changed what CRIU had been told, just before it was frozen, is
// tried once more.
func (d *Daemon) hibernate(ctx context.Context, a *App, how sleep, op *event.Operation) (*outcome, error) {
	out, err := d.hibernateOnce(ctx, a, how, op)
	if errors.Is(err, errChanged) && a.Status() == app.Running {
		return d.hibernateOnce(ctx, a, how, op)
	}
	return out, err
}

// sleep says how an app is hibernated.
type sleep struct {
	accept []preflight.Protection // that may be lost
	// alarm is as in snapshot.TakeOptions.
	alarm func(first *alarm.Alarm) error
}

// hibernateOnce is hibernate without the second try.
//
// The order makes it safe: the holder has the sockets before the processes can
// end, and the images are on the disk.
func (d *Daemon) hibernateOnce(ctx context.Context, a *App, how sleep, op *event.Operation) (_ *outcome, err error) {
	release, err := a.Take(ctx, "hibernate")
	if err != nil {
		return nil, err
	}
	defer release()
	if a.Status() == app.Held {
		return &outcome{}, nil
	}
	seen, err := d.preflight(ctx, a, how.accept, hold.Preflight)
	if err != nil {
		return nil, err
	}
	settings, err := a.netState().Settings()
	if err != nil {
		return nil, err
	}
	if err := d.fds.Ready(ctx); err != nil {
		return nil, err
	}
	if err := a.Step(app.Hibernating, journal.UntilReboot, nil); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.undoHibernate(context.WithoutCancel(ctx), a))
		}
		d.storage.SweepSoon() // what was adopted in vain, or is no base any more
	}()
	if err := fault.Point(ctx, fault.HibernateAfterRecord); err != nil {
		return nil, err
	}
	ns, err := netns.Open(a.box.NetPath())
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // a handle
	opt, err := d.takeOptions(ctx, a, ns, string(a.hibernation()), snapshot.End)
	if err != nil {
		return nil, err
	}
	defer opt.close()
	if err := seen.Strays(opt.External); err != nil {
		return nil, err
	}
	if err := opt.keepQueues(ctx, a); err != nil {
		return nil, err
	}
	opt.Step = op.Step
	// Of sockets that are held nothing changes; but some are not, and all are lost with
	// the host.
	options := copies.NewGatherer(copies.Options{NS: ns, Number: copies.Numbers()})
	opt.hold.Visit = options.Visit
	opt.Sockets = holdFor{d, a, opt.hold, opt.External}
	opt.Frozen = func(ctx context.Context, pids []int) ([]snapshot.External, error) {
		if err := preflight.LookAgain(ctx, pids, a.preflightOptions(how.accept)); err != nil {
			return nil, err
		}
		list, err := a.terminals(ctx, pids)
		if err != nil {
			return nil, err
		}
		watched, err := opt.watched(ctx, pids)
		if err != nil {
			return nil, err
		}
		moved, err := opt.heldMoved(ctx, pids)
		return slices.Concat(list, watched, moved, lossy(a.held)), err
	}
	opt.Unseen = func() [][]byte { return a.held.Unseen }
	opt.CopyFiles = func(ctx context.Context, to snapshot.Dir) error {
		state := netstate.Saved{Options: options.Found().Options, Settings: settings}
		return errors.Join(a.saveDev(ctx, to), state.Write(to))
	}
	opt.Saved = func(ctx context.Context, to snapshot.Dir) error {
		return errors.Join(fault.Point(ctx, fault.HibernateAfterDump), opt.keepFiles(ctx, d, a, to.Images(), seen))
	}
	opt.Alarm = how.alarm
	opt.Describe = func(m *snapshot.Manifest) { m.HostFiles, m.Bound = opt.host.kept, opt.host.bound }
	opt.Adopted = func(ctx context.Context) error { return fault.Point(ctx, fault.HibernateAfterAdopt) }
	opt.Committed = func(ctx context.Context) error { return fault.Point(ctx, fault.HibernateAfterCommit) }
	taken, err := snapshot.Take(ctx, d.criu, opt.TakeOptions)
	op.EndStep()
	if err != nil {
		return nil, err
	}
	op.Froze(taken.Frozen)
	for _, n := range taken.Notes {
		a.Remark(n, "")
	}
	// No way back from here: the processes are gone, the hold is everything.
	ctx = context.WithoutCancel(ctx)
	if err := fault.Point(ctx, fault.HibernateAfterKill); err != nil {
		d.log.ErrorContext(ctx, "fault after the end of the processes", slog.Any("error", err))
	}
	d.becomeHeld(ctx, a)
	lost := d.resets(ctx, a.hibernation(), opt.Manifest.External, a.heldInodes(), nil, unheld(""))
	return &outcome{sockets: lost, notes: a.Remarked()}, nil
}

// becomeHeld is the last step of hibernating: the processes have ended, so it
// can't fail. What can't be recorded now the next daemon finds out.
func (d *Daemon) becomeHeld(ctx context.Context, a *App) {
	a.dropProcess()
	// What can't be read now is read whenever somebody asks what is needed.
	var files []memory.File
	var host []hostfile.File
	var first *alarm.Alarm
	if m, err := a.hibernation().Manifest(); err == nil {
		files, host, first = m.MemoryFiles(), m.HostFiles, m.Alarm
	}
	rec, _ := a.Read()
	a.tellWakers(&rec, first)
	err := a.Settle(app.Held, journal.Forever, func(r *app.Record) {
		r.Process, r.Memory, r.HostFiles, r.Boot, r.Notes, r.Alarm = process.Identity{}, files, host, bootID(), a.Remarked(), first
	})
	if err != nil {
		a.Note(err)
		d.log.ErrorContext(ctx, "record a held app", slog.String("app", a.Name()), slog.Any("error", err))
	}
	if err := a.box.Renew(ctx); err != nil {
		a.ready = false // the next wake tries again
		d.log.ErrorContext(ctx, "renew cgroup", slog.String("app", a.Name()), slog.Any("error", err))
	}
	d.arm(ctx, a)
	if err := fault.Point(ctx, fault.HibernateAfterArm); err != nil {
		d.log.ErrorContext(ctx, "fault after arming", slog.Any("error", err))
	}
}

// undoHibernate makes an app whose processes are alive a running one again.
func (d *Daemon) undoHibernate(ctx context.Context, a *App) error {
	if a.Status() != app.Hibernating {
		return nil
	}
	return errors.Join(
		a.putBackTerminals(),
		d.narrowAgain(ctx, a),
		a.cgroup().Thaw(),
		d.release(ctx, a),
		a.hibernation().Remove(),
		a.Settle(app.Running, journal.UntilReboot, nil),
	)
}

// preflight refuses an app that can't be saved before anything is frozen. It returns the
// paths that were looked at.
func (d *Daemon) preflight(ctx context.Context, a *App, accept []preflight.Protection, look func(context.Context, []int) []hold.Finding) (*paths.Seen, error) {
	pids, err := a.cgroup().PIDs()
	if err != nil {
		return nil, err
	}
	rec, _ := a.Read()
	pids, attended := a.unattended(rec.Process.PID, pids)
	report, err := preflight.Look(ctx, pids, a.preflightOptions(accept))
	if err != nil {
		return nil, err
	}
	seen, err := paths.Look(ctx, pids)
	if err != nil {
		return nil, err
	}
	if err := seen.LookAtBinds(rec.Process.PID, a.binds()); err != nil {
		return nil, err
	}
	findings := look(ctx, pids)
	if err := errors.Join(attended, report.Err(), hold.Errors(findings), seen.Err()); err != nil {
		return nil, err
	}
	for _, f := range findings {
		if f.Severity == hold.Listed {
			a.Remark(f.Note.Text, f.Note.Remedy)
		}
	}
	for _, n := range slices.Concat(report.Notes, seen.Notes) {
		a.Remark(n.Text, n.Remedy)
	}
	return seen, nil
}

func (a *App) preflightOptions(accept []preflight.Protection) preflight.Options {
	rec, _ := a.Read()
	return preflight.Options{Root: rec.Process.PID, Cgroup: a.box.Cgroup().Name(), Accept: slices.Concat(rec.AcceptLost, accept)}
}

// holdFor is the hold of one app, as package snapshot sees it.
type holdFor struct {
	d   *Daemon
	a   *App
	opt hold.Options
	// external is what CRIU was told to leave alone.
	external []string
}

// Hold implements [snapshot.Sockets].
func (h holdFor) Hold(ctx context.Context, pids []int) error {
	if err := fault.Point(ctx, fault.HibernateAfterFreeze); err != nil {
		return err
	}
	set, err := hold.Collect(ctx, pids, h.opt)
	if err != nil {
		return err
	}
	h.a.setHeld(set)
	for _, n := range set.Notes {
		h.a.Remark(n.Text, n.Remedy)
	}
	if err := h.a.unannounced(set, h.external); err != nil {
		return err
	}
	if err := onlyQueues(h.a); err != nil {
		return err
	}
	if err := fault.Point(ctx, fault.HibernateAfterCollect); err != nil {
		return err
	}
	items, err := set.Items()
	if err != nil {
		return err
	}
	if err := h.d.fds.Put(ctx, h.a.box.Name, items); err != nil {
		return err
	}
	if err := set.Widen(); err != nil {
		return err
	}
	return fault.Point(ctx, fault.HibernateAfterHold)
}

// release lets go of all that is held, here and in the holder.
func (d *Daemon) release(ctx context.Context, a *App) error {
	a.lost = ""
	return errors.Join(a.disarm(), a.exclusively(ctx, func() error {
		var err error
		if a.held != nil {
			err = a.held.Close()
			a.setHeld(nil)
		}
		return errors.Join(err, d.fds.Drop(ctx, a.box.Name), a.box.DropIPC())
	}))
}

// reclaim gets the held sockets from the holder after a restart of the daemon. If
// the holder has none, the app has lost them.
func (d *Daemon) reclaim(ctx context.Context, a *App) error {
	items, err := d.fds.Get(ctx, a.box.Name)
	if errors.Is(err, holder.ErrNotFound) {
		a.lose()
		return nil
	}
	if err != nil {
		return err
	}
	set, err := hold.FromItems(items)
	if err != nil {
		return errors.Join(err, holder.CloseAll(items))
	}
	a.setHeld(set)
	return nil
}

// takeOptions are the parts of a snapshot's options that every kind shares.
type takeOptions struct {
	snapshot.TakeOptions
	guard *guard
	hold  hold.Options
	host  *hostFiles
}

// close lets go of what is only needed while the app is saved.
func (o *takeOptions) close() {
	o.host.unpin()
	_ = o.guard.Close() // a lock
}

func (d *Daemon) takeOptions(ctx context.Context, a *App, ns *netns.NS, target string, after snapshot.After) (_ *takeOptions, err error) {
	rec, _ := a.Read()
	external, dump, err := externals(a, rec)
	if err != nil {
		return nil, err
	}
	host, err := d.warmHostFiles(ctx, a, rec, after)
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
	opt := a.holdOptions(ns, append(kept, logKey(external)))
	opt.Copy = after == snapshot.GoOn
	sockets, err := unixExternals(ctx, a, opt)
	if err != nil {
		return nil, err
	}
	lent, err := lentFiles(ctx, a, opt)
	if err != nil {
		return nil, err
	}
	dump = append(dump, lent...)
	for _, e := range sockets {
		external, dump = append(external, e), append(dump, e.Key)
	}
	inside4, inside6 := rec.Inside()
	bases, err := d.mappedMemory(a, rec)
	if err != nil {
		return nil, err
	}
	dump = append(dump, slices.Sorted(maps.Keys(bases))...)
	g, err := openGuard(a)
	if err != nil {
		return nil, err
	}
	return &takeOptions{
		guard: g, host: host, hold: opt,
		TakeOptions: snapshot.TakeOptions{
			Target: target, PID: rec.Process.PID, Cgroup: a.cgroup(), Root: a.box.Root(), Work: a.work(),
			External: dump, After: after, Guard: g.File, Layers: d.storage.Layers,
			MemoryOptions: snapshot.MemoryOptions{Store: d.storage.Memory, Bases: bases, Whole: rec.RestoreMemory == restore.Copy},
			Hooks:         snapshot.Hooks{Thawing: a.putBackTerminals},
			// Were it an external namespace to CRIU, it would all the same look
			// for its connection tracking entries, twice through a table that
			// all namespaces of the host share, while the app stands still
			// (net.c, dump_nf_ct): 10 to 25 ms for 262144 buckets.
			Start: func(cmd *exec.Cmd) error { return a.box.StartBeside(ns, cmd) },
			Manifest: snapshot.Manifest{
				Name: rec.Name, App: rec.Name, CreatedAt: time.Now(), Spec: rec.Spec, External: external, Origin: d.origin(),
				Address: snapshot.Address{Network: rec.Network, Endpoint: inside4.String(), Endpoint6: addrText(inside6)},
				Content: snapshot.Content{Layers: rec.Layers},
				Policy:  rec.SavedPolicy(),
			},
		},
	}, nil
}

// addrText is an address, or nothing if there is none.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

var _ snapshot.Sockets = holdFor{}

// setHeld changes what is held. The caller has the turn.
func (a *App) setHeld(set *hold.Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = set
	a.inodes = nil
	if set != nil {
		a.inodes = make(map[uint64]bool, len(set.Sockets))
		for i := range set.Sockets {
			a.inodes[set.Sockets[i].Inode] = true
		}
	}
}
