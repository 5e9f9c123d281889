package move

import (
	"context"
	"errors"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/directory"
)

// Request says how an app moves.
type Request struct {
	To     string // host
	DryRun bool   // only ask whether it can
	// Force moves an app to a host whose processors lack instructions that this one's have.
	Force bool
	// SharedBinds promises that the paths that the app has from the host by binds lead to the same files there.
	SharedBinds bool
	// MaxPause is how long the last round of what is sent while the app runs may take: as long, about, it
	// will stand still for what is sent then. If no round is so short the app stays. 0: as it comes.
	MaxPause time.Duration
	// Bandwidth is how many bytes a second are sent at most; 0: as many as the network takes.
	Bandwidth int64
	// Wake has the target wake an app that is held.
	Wake   bool
	Accept []preflight.Protection // that may be lost, as in [engine.Sleep]
	Op     *event.Operation
	// Told is told how much was sent, while that goes on.
	Told func(Carried)
}

// Report is what became of a move.
type Report struct {
	App, From, To string
	Carried
	Rounds []Round // what was sent while the app ran
	// Pause is how long packets of the app waited: from when the endpoint left this host's network until its
	// sockets talked on the target.
	Pause time.Duration
	// Stood is how long the processes of an app that ran stood still; 0 if it slept, or does not run.
	Stood       time.Duration
	Woken       time.Duration // how long the target took to wake it
	Connections int           // that moved
	// Trouble is what went wrong when the app was the target's already.
	Trouble string
	Notes   []string
	Lost    []checkpoint.Outcome // sockets that did not move
}

func (r *Report) add(c Carried) {
	r.Sent += c.Sent
	r.Saved += c.Saved
	r.Done += c.Done
	r.Total += c.Total
}

// Migrate moves an app to another host: one that runs, which runs there then, or one that is held or stopped, which
// stays so.
// If it fails the app is as it was, on this host, unless the error says that it is not known on which host it is.
func (m *Mover) Migrate(ctx context.Context, a *engine.App, req Request) (*Report, error) {
	self := m.opt.Hosts.Self()
	f := &farewell{to: req.To, journey: newJourney(), report: &Report{App: a.Name(), From: self, To: req.To}}
	talk, err := m.ask(ctx, a, req, f)
	if err != nil {
		return nil, &Error{a.Name(), req.To, err}
	}
	defer talk.Close()
	f.talk = talk
	if req.DryRun {
		return f.report, nil
	}
	if err := m.move(ctx, a, req, f); err != nil {
		return nil, &Error{a.Name(), req.To, err}
	}
	return f.report, nil
}

// ask asks the target whether the app can come.
func (m *Mover) ask(ctx context.Context, a *engine.App, req Request, f *farewell) (_ conversation, err error) {
	if _, err := m.registrar(); err != nil {
		return conversation{}, err
	}
	if req.To == m.opt.Hosts.Self() {
		return conversation{}, app.Refusef("the app is on that host")
	}
	rec, _ := a.Read()
	if s := rec.Now(); s != app.Running && s != app.Held && s != app.Stopped {
		return conversation{}, app.Refuse(&app.StatusError{App: rec.Name, Status: s, Done: "moved"})
	}
	s, err := m.opt.Hosts.Open(ctx, req.To, StreamKind)
	if err != nil {
		return conversation{}, err
	}
	talk := conversation{s}
	defer func() {
		if err != nil {
			talk.Close()
		}
	}()
	c := a.Endpoint.Claim()
	o := &offer{
		Version: version, Journey: f.journey, Record: traveller(&rec), Host: m.here, Force: req.Force, SharedBinds: req.SharedBinds,
		Endpoint: directory.Endpoint{Network: c.Network, Addr: c.Addr4, App: c.App},
	}
	if f.ended = rec.Status == app.Stopped; f.ended {
		o.Ended = &exited{Exit: rec.Exit}
	}
	if err := talk.say(said{Offer: o}); err != nil {
		return talk, err
	}
	heard, err := talk.hear()
	if err != nil {
		return talk, err
	}
	if heard.Welcome == nil {
		return talk, errMalformed
	}
	f.report.Notes = append(f.report.Notes, heard.Welcome.Notes...)
	return talk, nil
}

// traveller is what another host is told of an app: what it is, and not what it does on this one.
func traveller(rec *app.Record) app.Record {
	t := *rec
	t.ID, t.Files, t.State = "", app.Files{}, app.State{}
	t.Template, t.Number, t.Pool, t.Batch = "", 0, "", "" // a clone is one of a template of this host
	return t
}

// move moves an app that the target takes.
func (m *Mover) move(ctx context.Context, a *engine.App, req Request, f *farewell) error {
	rec, _ := a.Read()
	runs := rec.Now() == app.Running
	// One that is about to be woken, after a move that was called off, runs there too.
	f.volatile = runs || rec.Volatile
	f.wake, f.bandwidth = runs || rec.Resume || req.Wake && rec.Now() == app.Held, req.Bandwidth
	defer m.forgetAll(ctx, f.journey)
	if !runs {
		return m.departNow(ctx, a, req, f)
	}
	if err := m.sendAhead(ctx, a, req, f); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, engine.DefaultTimeout) // from here on it stands still
	defer cancel()
	out, err := m.opt.Engine.Hibernate(ctx, a, engine.Sleep{Accept: req.Accept, Moves: true}, req.Op)
	if err != nil {
		return err
	}
	f.report.Stood, f.asleep = out.Frozen, time.Now()
	if err = m.departNow(ctx, a, req, f); err != nil {
		err = errors.Join(err, m.wakeAgain(ctx, a))
	}
	return err
}

// wakeAgain has an app go on that ran before it was to move, on the host where it is now. If that fails it sleeps
// like any other.
func (m *Mover) wakeAgain(ctx context.Context, a *engine.App) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), engine.DefaultTimeout)
	defer cancel()
	rec, _ := a.Read()
	if rec.Now() != app.Held {
		return nil
	}
	op := m.opt.Engine.Events.Begin(event.Wake, event.About{App: rec.Name, Reason: string(app.ByMove)})
	_, err := m.opt.Engine.Wake(ctx, a, engine.Awakening{By: app.ByMove, Pages: rec.RestoreMemory, AcceptChanged: rec.AcceptChanged}, op)
	op.End(err)
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, m.sleepOn(ctx, a))
	}
	return err
}

// sleepOn has an app sleep as any other that is not woken.
func (m *Mover) sleepOn(ctx context.Context, a *engine.App) error {
	release, err := m.opt.Engine.Turn(ctx, a, "arm")
	if err != nil {
		return err
	}
	defer release()
	if a.Status() != app.Held {
		return nil
	}
	if err := m.bringToDisk(ctx, a); err != nil {
		return err
	}
	m.opt.Engine.Arm(ctx, a)
	return nil
}

// departNow moves an app that is held, or stopped.
func (m *Mover) departNow(ctx context.Context, a *engine.App, req Request, f *farewell) error {
	release, err := m.opt.Engine.Turn(ctx, a, "migrate")
	if err != nil {
		return err
	}
	defer release()
	if s := a.Status(); s != f.status() {
		return app.Refuse(&app.StatusError{App: a.Name(), Status: s, Done: m.depart.Done})
	}
	if f.ended {
		if err := m.keepAddress(ctx, a); err != nil {
			return err
		}
	} else if a.Endpoint.Held() == nil {
		if err := a.Reclaim(ctx); err != nil {
			return err
		}
		if a.Endpoint.Held() == nil {
			return app.Refusef("what was held of the app is lost: its connections ended with the host's boot, or with both snapctld and holder. It has to be woken first: snapctl wake %s", a.Name())
		}
	}
	r, err := m.depart.Begin(a, req.Op)
	if err != nil {
		return err
	}
	return r.Do(ctx, func(ctx context.Context) error { return m.takeLeave(ctx, r, f) })
}

// copyHeld makes the snapshot that the target gets of an app that is held, or stopped.
func (m *Mover) copyHeld(ctx context.Context, r *engine.Run, f *farewell) error {
	a := r.Subject
	if f.ended {
		_, err := m.opt.Engine.CopyStopped(ctx, r, engine.SnapshotRequest{Name: f.nextSnapshot(), Passing: true})
		return err
	}
	if err := a.Endpoint.Held().Copyable(); err != nil {
		return err
	}
	kept, err := netstate.Kept(a.Hibernation())
	if err != nil {
		return err
	}
	_, err = m.opt.Engine.CopyHeld(ctx, r, engine.SnapshotRequest{Name: f.nextSnapshot(), Passing: true}, kept)
	return err
}
