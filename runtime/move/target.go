package move

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/ownership"
)

// Serve answers a stream by which the host from moves an app to this one.
func (m *Mover) Serve(ctx context.Context, from string, s Stream) error {
	talk := conversation{s}
	err := m.serve(ctx, from, talk)
	if err != nil && ctx.Err() == nil {
		m.opt.Log.WarnContext(ctx, "an app of another host does not come", slog.String("host", from), slog.Any("error", err))
	}
	return refused(err)
}

func (m *Mover) serve(ctx context.Context, from string, talk conversation) error {
	heard, err := talk.hear()
	if err != nil {
		return err
	}
	if heard.Offer == nil {
		return errMalformed
	}
	notes, err := m.consider(ctx, heard.Offer)
	if err != nil {
		return err
	}
	journey := heard.Offer.Journey
	if journey == "" || journeyOf(nameOf(journey, 1)) != journey || !m.journeys.begin(journey, from) {
		return errMalformed
	}
	defer func() {
		m.journeys.end(journey)
		m.forgetAll(context.WithoutCancel(ctx), journey)
	}()
	if err := talk.say(said{Welcome: &welcome{Notes: notes}}); err != nil {
		return err
	}
	v := &arrival{offer: heard.Offer, talk: talk}
	if heard, err = talk.hear(); err != nil {
		return nil // it has changed its mind, or was only asking
	}
	if heard.Prepare == nil || journeyOf(heard.Prepare.Snapshot) != journey || heard.Prepare.Endpoint.App != v.offer.Record.Name || heard.Prepare.Endpoint.Owner != from {
		return errMalformed
	}
	v.prepare = *heard.Prepare
	// The other host may be cut off: this is finished or undone all the same.
	done := make(chan error, 1)
	m.opt.Run(func(ctx context.Context) {
		v.op = m.opt.Engine.Events.Begin(event.Arrive, event.About{App: v.offer.Record.Name, Reason: "from host " + from})
		err := m.welcomeIn(ctx, v)
		v.op.End(err)
		done <- err
	})
	return <-done
}

// consider returns why an app can't come, or what there is to be said of it.
func (m *Mover) consider(ctx context.Context, o *offer) (notes []string, err error) {
	switch {
	case o.Version != version:
		return nil, app.Refusef("the other host moves apps by version %d, and this one by version %d: give both the same snapctl", o.Version, version)
	case o.Record.Spec == nil || o.Record.Spec.Process == nil || o.Record.Spec.Root == nil || !o.Record.Addr4.IsValid():
		return nil, errMalformed
	case m.here.Refusal(o.Host) != "":
		return nil, app.Refusef("%s", m.here.Refusal(o.Host))
	}
	if err := errors.Join(snapshot.ValidateName(o.Record.Name), m.opt.Hosts.TakesApps(ctx)); err != nil {
		return nil, err
	}
	if missing := m.here.Lacks(o.Host); len(missing) > 0 && !o.Force {
		return nil, app.Refusef("the processor lacks what the other host's has: %s; a program that uses it would be killed: --force moves it all the same", strings.Join(missing, ", "))
	}
	notes = m.here.Notes(o.Host)
	if err := binds(o); err != nil {
		return nil, err
	}
	if m.opt.Engine.Apps.Taken(o.Record.Name) {
		return nil, app.Refusef("there is an app %s", o.Record.Name)
	}
	reg, err := m.registrar()
	if err != nil {
		return nil, err
	}
	return notes, reg.Welcome(ctx, o.Endpoint)
}

// binds returns why what the app has by binds from the other host it would not have here.
func binds(o *offer) error {
	var paths []string
	for _, b := range o.Record.Spec.Mounts {
		paths = append(paths, b.Source)
	}
	slices.Sort(paths)
	if len(paths) > 0 && !o.SharedBinds {
		return app.Refusef("the app has %s by --bind from the host that it is on: if the same files are there on the target, --shared-binds says so", strings.Join(paths, ", "))
	}
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil {
			return app.Refusef("the app has %s by --bind, and it is not there: %v", p, err)
		}
	}
	return nil
}

// welcomeIn takes an app in that was prepared for.
func (m *Mover) welcomeIn(ctx context.Context, v *arrival) error {
	src, err := m.source(ctx, v.Snapshot)
	if err != nil {
		return err
	}
	defer src.Close()
	reg, err := m.registrar()
	if err != nil {
		return err
	}
	if err := reg.Expect(ctx, v.Endpoint); err != nil {
		return err
	}
	r, release, err := m.enroll(ctx, src, v)
	if err != nil {
		return errors.Join(err, reg.Dismiss(ownership.SpotOf(v.Endpoint)))
	}
	a := r.Subject
	err = r.Do(ctx, func(ctx context.Context) error { return m.comeIn(ctx, r, src, v) })
	release()
	if err != nil {
		return err
	}
	tell := &arrived{Opened: v.opened}
	if v.Wake {
		m.wake(ctx, a, tell)
	}
	rec, _ := a.Read()
	for _, n := range rec.Notes {
		tell.Notes = append(tell.Notes, n.Text)
	}
	if v.made != nil { // else it is stopped
		for _, p := range v.made.Problems {
			tell.Notes = append(tell.Notes, p.String())
		}
	}
	if err := v.talk.say(said{Arrived: tell}); err != nil {
		m.opt.Log.WarnContext(ctx, "the other host was not told that its app is here", slog.String("app", a.Name()), slog.Any("error", err))
	}
	return nil
}

// comeIn is the body of an arrival.
func (m *Mover) comeIn(ctx context.Context, r *engine.Run, src *source.Source, v *arrival) error {
	printed, err := v.talk.hearBytes(mostLog)
	if err != nil {
		return err
	}
	if err := beginLog(r.Subject.Box.LogFile(), printed); err != nil {
		return err
	}
	if err := m.furnish(ctx, r, src, v); err != nil {
		return err
	}
	if err := v.talk.say(said{}); err != nil {
		return err
	}
	defer func() {
		if v.ns != nil {
			_ = v.ns.Close() // a handle
		}
	}()
	if err := m.receive(ctx, r, v); err != nil {
		return err
	}
	if err := v.talk.say(said{}); err != nil {
		m.opt.Log.WarnContext(ctx, "the other host is not heard any more; what the directory says decides", slog.Any("error", err))
	}
	_ = v.talk.acknowledged() // or it is not heard any more: that is asked of the directory in any case
	v.given = time.Now()
	return m.take(ctx, r, v)
}

// wake has an app run that ran before it came.
func (m *Mover) wake(ctx context.Context, a *engine.App, tell *arrived) {
	began := time.Now()
	err := m.wakeAgain(ctx, a)
	if tell.Woken = time.Since(began); err != nil {
		tell.Woken, tell.Trouble = 0, "it is held, and could not be woken: "+err.Error()
	}
}

// source opens a snapshot that came.
func (m *Mover) source(ctx context.Context, name string) (*source.Source, error) {
	s, err := m.opt.Engine.Store.Begin(ctx, name, snapshot.ByStamp)
	if err != nil {
		return nil, err
	}
	return &source.Source{Snapshot: s}, nil
}
