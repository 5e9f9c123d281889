package server

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/preflight"
)

func TestRunOfAnApp(t *testing.T) {
	w := begin(t)
	w.engine.run = func(rec app.Record) (*engine.App, error) {
		rec.Status = app.Running
		return w.make(t, rec), nil
	}
	shown, err := w.Run(t.Context(), &api.RunRequest{Args: []string{"/bin/redis", "--save"}, Endpoint: "10.77.0.5", Network: "red"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(shown.GetName(), "redis")) // which is free
	qt.Check(t, qt.Equals(shown.GetStatus(), api.Status_STATUS_RUNNING))
	qt.Check(t, qt.Equals(shown.GetEndpoint(), "10.77.0.5"))
	qt.Check(t, qt.Equals(shown.GetNetwork(), "red"))

	w.engine.run = func(rec app.Record) (*engine.App, error) {
		return nil, fmt.Errorf("app %s: %w", rec.Name, errdefs.ErrAlreadyExists)
	}
	_, err = w.Run(t.Context(), &api.RunRequest{Name: "web", Args: []string{"true"}})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.ErrorMatches(err, "app web: already exists"))
	ended := w.events.Recent(event.Filter{Types: []event.Type{event.Ended}, Apps: []string{"web"}})
	qt.Assert(t, qt.HasLen(ended, 1))
	qt.Check(t, qt.Equals(ended[0].Kind, event.Run))
	qt.Check(t, qt.ErrorIs(ended[0].Err, errdefs.ErrAlreadyExists))

	// What is refused is no operation: nothing was tried.
	_, err = w.Run(t.Context(), &api.RunRequest{Name: "other"})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	qt.Check(t, qt.HasLen(w.events.Recent(event.Filter{Apps: []string{"other"}}), 0))
}

// TestListOfApps proves that apps are listed by name, without those that nobody has yet, and that
// only held ones are looked at for what keeps them from being woken.
func TestListOfApps(t *testing.T) {
	w := begin(t)
	w.add(t, "web", app.Running)
	w.add(t, "cache", app.Held)
	w.apps.Add(w.make(t, app.Record{Identity: app.Identity{Name: "ready"}, Origin: app.Origin{Pool: "web"}, State: app.State{Status: app.Pooled}}))
	w.obstacles.of = map[string]error{"cache": errors.New("gone"), "web": errors.New("not asked")}
	all, err := w.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(all, 2))
	qt.Check(t, qt.Equals(all[0].GetName(), "cache"))
	qt.Check(t, qt.Equals(all[1].GetName(), "web"))
	qt.Assert(t, qt.HasLen(all[0].GetWouldNotStart(), 1))
	qt.Check(t, qt.Equals(all[0].GetWouldNotStart()[0].GetReason(), "gone"))
	qt.Check(t, qt.HasLen(all[1].GetWouldNotStart(), 0))

	shown, err := w.Show(t.Context(), "cache")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(shown.GetWouldNotStart(), 1))
}

// TestRequestsForNoApp proves that each request that names an app says when there is none.
func TestRequestsForNoApp(t *testing.T) {
	w := begin(t)
	ctx := t.Context()
	for what, ask := range map[string]func(name string) error{
		"show": func(name string) error { _, err := w.Show(ctx, name); return err },
		"hibernate": func(name string) error {
			_, err := w.Hibernate(ctx, &api.HibernateRequest{Name: name}, nil)
			return err
		},
		"wake": func(name string) error { _, err := w.Wake(ctx, &api.WakeRequest{Name: name}, nil); return err },
		"stop": func(name string) error { _, err := w.Stop(ctx, &api.StopRequest{Name: name}); return err },
		"rm":   func(name string) error { return w.Remove(ctx, &api.RemoveRequest{Name: name}) },
		"ids":  func(name string) error { _, err := w.IDs(ctx, name); return err },
		"logs": func(name string) error { return w.Logs(ctx, &api.LogsRequest{Name: name}, nil) },
		"vem":  func(name string) error { _, err := w.VemTable(ctx, &api.VemTableRequest{App: name}); return err },
		"snapshot": func(name string) error {
			_, err := w.TakeSnapshot(ctx, &api.SnapshotRequest{App: name}, nil)
			return err
		},
		"exec": func(name string) error {
			_, err := w.Exec(ctx, client.Exec{Start: &api.ExecStart{Name: name, Args: []string{"true"}}})
			return err
		},
	} {
		err := ask("nobody")
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound), qt.Commentf("%s", what))
		qt.Check(t, qt.ErrorMatches(err, "app nobody: not found"), qt.Commentf("%s", what))
		if what != "vem" { // "" are all apps
			qt.Check(t, qt.ErrorIs(ask(""), errdefs.ErrInvalidArgument), qt.Commentf("%s", what))
		}
	}
	qt.Check(t, qt.HasLen(w.events.Recent(event.Filter{}), 0)) // nothing was begun
}

// TestLongOperation proves that a client hears of each step, and then of the result.
func TestLongOperation(t *testing.T) {
	w := begin(t)
	a := w.add(t, "cache", app.Running)
	var how engine.Sleep
	var left time.Duration
	w.engine.hibernate = func(ctx context.Context, a *engine.App, asked engine.Sleep, op *event.Operation) (*engine.Outcome, error) {
		how = asked
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		op.Step("freeze")
		op.Step("dump")
		op.EndStep()
		op.Froze(3 * time.Millisecond)
		release, _ := a.TryTake("hibernate")
		defer release()
		a.Amend(func(r *app.Record) { r.Status = app.Held })
		return &engine.Outcome{
			Sockets: []checkpoint.Outcome{{Socket: "tcp a", Kept: true}, {Socket: "tcp b", Reason: "it was closing"}},
			Notes:   []app.Note{{Text: "a clock goes on", Remedy: "none"}},
		}, nil
	}
	var steps []string
	res, err := w.Hibernate(t.Context(), &api.HibernateRequest{
		Name: "cache", AcceptLost: []string{string(preflight.Protections()[0])}, Timeout: durationpb.New(time.Hour),
	}, func(p *api.Progress) { steps = append(steps, p.GetStep()) })
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(steps, []string{"freeze", "dump"}))
	qt.Check(t, qt.DeepEquals(how.Accept, preflight.Protections()[:1]))
	qt.Check(t, qt.IsTrue(left > engine.DefaultTimeout && left <= time.Hour), qt.Commentf("%s", left))
	qt.Check(t, qt.Equals(res.GetFrozenUs(), 3000))
	qt.Check(t, qt.IsTrue(res.GetTotalUs() > 0))
	_, dumped := res.GetStepsUs()["dump"]
	qt.Check(t, qt.IsTrue(dumped))
	qt.Check(t, qt.Equals(res.GetApp().GetStatus(), api.Status_STATUS_HELD)) // as it is afterwards
	qt.Assert(t, qt.HasLen(res.GetSockets(), 2))
	qt.Check(t, qt.Equals(res.GetSockets()[0].GetOutcome(), "kept"))
	qt.Check(t, qt.Equals(res.GetSockets()[1].GetOutcome(), "reset"))
	qt.Check(t, qt.Equals(res.GetSockets()[1].GetReason(), "it was closing"))
	qt.Assert(t, qt.HasLen(res.GetNotes(), 1))
	qt.Check(t, qt.Equals(res.GetNotes()[0].GetText(), "a clock goes on"))

	w.engine.hibernate = func(context.Context, *engine.App, engine.Sleep, *event.Operation) (*engine.Outcome, error) {
		return nil, &app.StatusError{App: a.Name(), Status: app.Held, Done: "hibernated"}
	}
	_, err = w.Hibernate(t.Context(), &api.HibernateRequest{Name: "cache"}, nil)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Check(t, qt.DeepEquals(client.Hints(err), []string{"wake it first: snapctl wake cache"}))
	_, err = w.Hibernate(t.Context(), &api.HibernateRequest{Name: "cache", AcceptLost: []string{"everything"}}, nil)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
}

// TestEndOfTheTime proves that an operation without a time of its own has the default, and that
// one whose time is over says so.
func TestEndOfTheTime(t *testing.T) {
	w := begin(t)
	w.add(t, "cache", app.Running)
	w.engine.hibernate = func(ctx context.Context, _ *engine.App, _ engine.Sleep, _ *event.Operation) (*engine.Outcome, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("dump: %w", ctx.Err())
	}
	_, err := w.Hibernate(t.Context(), &api.HibernateRequest{Name: "cache", Timeout: durationpb.New(time.Millisecond)}, nil)
	qt.Check(t, qt.ErrorIs(err, context.DeadlineExceeded))
	qt.Check(t, qt.Equals(timeoutOf(nil), engine.DefaultTimeout))
	qt.Check(t, qt.Equals(timeoutOf(durationpb.New(-time.Second)), engine.DefaultTimeout))
}

// TestEndOfSessions proves that sessions are ended in the app's turn, and that an operation is not
// begun if that fails.
func TestEndOfSessions(t *testing.T) {
	w := begin(t)
	a := w.add(t, "cache", app.Running)
	release, ok := a.TryTake("something else")
	qt.Assert(t, qt.IsTrue(ok))
	defer release()
	_, err := w.Hibernate(t.Context(), &api.HibernateRequest{Name: "cache", EndSessions: true, Timeout: durationpb.New(time.Millisecond)}, nil)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAborted))
	qt.Check(t, qt.ErrorMatches(err, "end sessions cache: busy: something else is going on: .*"))
	_, err = w.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "cache", EndSessions: true, Timeout: durationpb.New(time.Millisecond)}, nil)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAborted))
	qt.Check(t, qt.DeepEquals(client.Hints(err), []string{"wait for the other operation; snapctl show tells what it is"}))
}

// TestHowAnAppIsWoken proves that its record decides, unless the request says otherwise.
func TestHowAnAppIsWoken(t *testing.T) {
	w := begin(t)
	w.apps.Add(w.make(t, app.Record{Identity: app.Identity{Name: "mapped"}, State: app.State{Status: app.Held}}))
	w.apps.Add(w.make(t, app.Record{Identity: app.Identity{Name: "copied"}, State: app.State{Status: app.Held}, Policy: app.Policy{RestoreMemory: restore.Copy, AcceptChanged: true}}))
	var how engine.Awakening
	w.engine.wake = func(_ *engine.App, asked engine.Awakening) (*engine.Outcome, error) {
		how = asked
		return &engine.Outcome{}, nil
	}
	for _, test := range []struct {
		req  *api.WakeRequest
		want engine.Awakening
	}{
		{&api.WakeRequest{Name: "mapped"}, engine.Awakening{By: app.ByCommand}},
		{&api.WakeRequest{Name: "mapped", Copy: true}, engine.Awakening{By: app.ByCommand, Pages: restore.Copy}},
		{&api.WakeRequest{Name: "mapped", AcceptChangedFiles: true}, engine.Awakening{By: app.ByCommand, AcceptChanged: true}},
		{&api.WakeRequest{Name: "copied"}, engine.Awakening{By: app.ByCommand, Pages: restore.Copy, AcceptChanged: true}},
	} {
		_, err := w.Wake(t.Context(), test.req, nil)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.DeepEquals(how, test.want), qt.Commentf("%v", test.req))
	}
}

func TestSignalsOfAStop(t *testing.T) {
	w := begin(t)
	w.add(t, "web", app.Running)
	var got unix.Signal
	var patience time.Duration
	w.engine.stop = func(_ *engine.App, sig unix.Signal, grace time.Duration) error {
		got, patience = sig, grace
		return nil
	}
	for text, want := range map[string]unix.Signal{"": unix.SIGTERM, "int": unix.SIGINT, "SIGKILL": unix.SIGKILL, "sigusr1": unix.SIGUSR1} {
		_, err := w.Stop(t.Context(), &api.StopRequest{Name: "web", Signal: text})
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(got, want), qt.Commentf("%q", text))
		qt.Check(t, qt.Equals(patience, 10*time.Second))
	}
	_, err := w.Stop(t.Context(), &api.StopRequest{Name: "web", Timeout: durationpb.New(time.Minute)})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(patience, time.Minute))

	got = 0
	_, err = w.Stop(t.Context(), &api.StopRequest{Name: "web", Signal: "dance"})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	qt.Check(t, qt.ErrorMatches(err, `signal "dance": .*no such signal`))
	qt.Check(t, qt.Equals(got, 0)) // it was not stopped
}

func TestRemovalOfAnApp(t *testing.T) {
	w := begin(t)
	a := w.add(t, "web", app.Running)
	w.engine.remove = func(a *engine.App, force bool) error {
		if !force {
			return app.Refusef("app web is running: stop it first, or use --force")
		}
		w.apps.Remove(a)
		return nil
	}
	err := w.Remove(t.Context(), &api.RemoveRequest{Name: "web"})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Check(t, qt.ErrorMatches(err, "app web is running: stop it first, or use --force"))
	qt.Check(t, qt.IsNil(w.Remove(t.Context(), &api.RemoveRequest{Name: "web", Force: true})))
	qt.Check(t, qt.IsTrue(a.Gone()))
	ended := w.events.Recent(event.Filter{Types: []event.Type{event.Ended}, Kinds: []event.Kind{event.Remove}})
	qt.Assert(t, qt.HasLen(ended, 2))
	qt.Check(t, qt.IsNotNil(ended[0].Err))
	qt.Check(t, qt.IsNil(ended[1].Err))
}

// TestDepthOfLooks proves that lists do not read the files that apps need: they may be large.
func TestDepthOfLooks(t *testing.T) {
	w := begin(t)
	w.add(t, "cache", app.Held)
	w.save(t, "s", "web")
	var depth []snapshot.Depth
	w.obstacles.depth = func(d snapshot.Depth) { depth = append(depth, d) }
	_, err := w.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	_, err = w.ListSnapshots(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(depth, []snapshot.Depth{snapshot.BySize, snapshot.BySize}))
	depth = nil
	_, err = w.Doctor(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(depth, []snapshot.Depth{snapshot.ByStamp, snapshot.ByStamp}))
}
