package move

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/handover"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netns"
)

var departTable = journal.Table{
	Name: string(event.Migrate), Doing: string(app.Moving), Done: "moved", From: []string{string(app.Held), string(app.Stopped)},
	Steps: []journal.Step{
		{Name: "begun", Means: "the intent is recorded", Keep: journal.UntilReboot, Then: "save files"},
		{Name: "written", Means: "all files of the snapshot for the target are written, and have not got their name"},
		{Name: "sent", Means: "the target has the snapshot"},
		{Name: "prepared", Means: "the directory says that the endpoint moves to the target, which has made the app"},
		{Name: "withdrawn", Means: "the endpoint is in no network, its packets wait"},
		{Name: "saved", Means: "the sockets are saved, and silent"},
		{Name: "given", Means: "the target holds the sockets; what the directory says decides", Keep: journal.Forever, Must: true},
		{Name: "gone", Means: "the endpoint is the target's", Commits: true},
	},
}

// farewell is what leaves with an app.
type farewell struct {
	to        string
	wake      bool // on the target
	volatile  bool // see [app.State]
	ended     bool // it is stopped
	journey   string
	snapshot  string // the last that was made of the journey
	sent      int    // how many were made
	bandwidth int64  // bytes a second; 0: any
	talk      conversation
	report    *Report
	// asleep is since when an app that ran has had no processes; zero: it did not run.
	asleep time.Time
}

// takeLeave is the body of a departure.
func (m *Mover) takeLeave(ctx context.Context, r *engine.Run, f *farewell) error {
	a := r.Subject
	reg, err := m.registrar()
	if err != nil {
		return err
	}
	if err := a.Endpoint.Disarm(); err != nil {
		return err
	}
	if err := m.carryHeld(ctx, r, f); err != nil {
		return err
	}
	if err := r.At(ctx, "sent"); err != nil {
		return err
	}
	r.Step("prepare the target")
	at := spotOf(a)
	e, err := reg.Depart(ctx, at, f.to)
	if err != nil {
		return err
	}
	if err := f.talk.say(said{Prepare: &prepare{Snapshot: f.snapshot, Endpoint: e, Wake: f.wake, Volatile: f.volatile}}); err != nil {
		return err
	}
	printed, err := lastLog(a.Box.LogFile())
	if err != nil {
		return err
	}
	if err := f.talk.sayBytes(printed); err != nil {
		return err
	}
	if err := f.talk.acknowledged(); err != nil {
		return err
	}
	if err := r.At(ctx, "prepared"); err != nil {
		return err
	}
	r.Step("hand sockets over")
	if err := m.handOver(ctx, r, f); err != nil {
		return err
	}
	// From here on it may be the target's, whatever is answered.
	if err := reg.GiveAway(ctx, at, f.to); err != nil {
		return err
	}
	if err := r.At(ctx, "gone"); err != nil {
		return err
	}
	return m.seeOff(ctx, r, f)
}

// handOver gives the target the sockets, of which nothing is heard any more.
func (m *Mover) handOver(ctx context.Context, r *engine.Run, f *farewell) error {
	if f.ended {
		return f.handNothingOver(ctx, r)
	}
	a := r.Subject
	began := time.Now()
	ns, err := netns.Open(a.Box.NetPath())
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	rec, _ := a.Read()
	s, err := handover.Begin(ctx, ns, a.Endpoint.Held(), rec.Own()...)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // it lets clients in, also if it fails
	if err := keepUndo(a, s); err != nil {
		return err
	}
	if err := s.Still(ctx); err != nil {
		return err
	}
	if err := a.Endpoint.Withdraw(ctx); err != nil {
		return err
	}
	if err := r.At(ctx, "withdrawn"); err != nil {
		return err
	}
	saved, err := s.Save(ctx)
	if err != nil {
		return err
	}
	b, err := saved.Encode()
	if err != nil {
		return errors.Join(err, s.GoOn())
	}
	if err := journal.Replace(leavingFile(a), b, journal.UntilReboot); err != nil {
		// What waited to be accepted is known to this process alone: it goes back now.
		return errors.Join(fmt.Errorf("keep the sockets of an app that leaves: %w", err), s.GoOn())
	}
	if err := r.At(ctx, "saved"); err != nil {
		return err
	}
	f.report.Connections = len(saved.Connections) + len(saved.Waiting)
	for _, lost := range saved.Refused {
		f.report.Lost = append(f.report.Lost, checkpoint.Outcome{Socket: lost.What, Reason: lost.Reason})
	}
	if b, err = m.encode(a, saved, f); err != nil {
		return err
	}
	if err := f.talk.sayBytes(b); err != nil {
		return err
	}
	if err := f.talk.acknowledged(); err != nil {
		return err
	}
	f.report.Pause = time.Since(began)
	return r.At(ctx, "given")
}

// encode is what the target gets of the sockets. What is on this host is on another one for the app then.
func (m *Mover) encode(a *engine.App, saved *handover.Saved, f *farewell) ([]byte, error) {
	v, network := m.opt.Engine.VEM, a.Endpoint.Claim().Network
	saved.Readdress(v.Appearances(network))
	for _, what := range saved.Beyond(func(at netip.Addr) bool { return at.IsLoopback() || v.Follows(network, at) }) {
		f.report.Lost = append(f.report.Lost, checkpoint.Outcome{
			Socket: what, Reason: "its peer is outside of the network, and knows the app by an address of host " + m.opt.Hosts.Self() + ": it is reset when the app uses it",
		})
	}
	return saved.Encode()
}

// carryHeld takes what is saved of the app to the target.
func (m *Mover) carryHeld(ctx context.Context, r *engine.Run, f *farewell) error {
	if err := m.copyHeld(ctx, r, f); err != nil {
		return err
	}
	r.Step("send what changed")
	c, err := m.carry(ctx, f, nil)
	f.report.add(c)
	return err
}

// seeOff waits until the target has the app, as far as it can be known: the app is the target's in any case.
func (m *Mover) seeOff(ctx context.Context, r *engine.Run, f *farewell) error {
	r.Step("wait for the target")
	heard, err := f.hearArrival()
	if !f.asleep.IsZero() {
		f.report.Stood += time.Since(f.asleep)
	}
	if err != nil {
		f.report.Trouble = fmt.Sprintf("the app is on host %s, which did not say how it is: %v", f.to, err)
	} else {
		f.report.Pause += heard.Opened
		f.report.Woken, f.report.Trouble = heard.Woken, heard.Trouble
		f.report.Notes = append(f.report.Notes, heard.Notes...)
	}
	return m.leave(context.WithoutCancel(ctx), r)
}

func (f *farewell) hearArrival() (*arrived, error) {
	if err := f.talk.say(said{}); err != nil {
		return nil, err
	}
	heard, err := f.talk.hear()
	if err == nil && heard.Arrived == nil {
		err = errMalformed
	}
	return heard.Arrived, err
}

// hasDeparted tells whether the endpoint is another host's.
func (m *Mover) hasDeparted(ctx context.Context, r *engine.Run) (bool, error) {
	a := r.Subject
	rec, _ := a.Read()
	reg, err := m.registrar()
	if err == nil {
		var gone bool
		if gone, err = reg.Stay(ctx, spotOf(a), directory.Held); err == nil {
			return gone, nil
		}
	}
	if rec.Operation.Step != "given" { // nothing was asked that could still happen
		m.opt.Log.WarnContext(ctx, "the directory says of an app that it moves, which it does not", slog.String("app", a.Name()), slog.Any("error", err))
		return false, nil
	}
	return false, fmt.Errorf("%w: %w", errUndecided, err)
}

// stay has the app sleep on at this host, or be stopped there.
func (m *Mover) stay(ctx context.Context, r *engine.Run) error {
	a := r.Subject
	if rec, _ := a.Read(); rec.Status == app.Stopped {
		return r.Close()
	}
	if r.Left {
		if err := a.Reclaim(ctx); err != nil {
			return err
		}
	}
	if err := goOn(a); err != nil {
		return err
	}
	if err := m.opt.Engine.Reopen(ctx, a); err != nil {
		return err
	}
	if err := r.Close(); err != nil {
		return err
	}
	m.opt.Engine.Arm(ctx, a)
	return nil
}

// leave removes what is left of an app that is on another host. Its sockets are silent: nobody is told.
func (m *Mover) leave(ctx context.Context, r *engine.Run) error {
	return m.opt.Engine.Expunge(ctx, r.Subject)
}

// undoFile has what the sockets of an app need to go on that were saved, or are about to be.
func undoFile(a *engine.App) string { return filepath.Join(a.Dir(), "handover.json") }

// leavingFile has what was saved of them: it alone has what waited to be accepted.
func leavingFile(a *engine.App) string { return filepath.Join(a.Dir(), "handover.bin") }

func keepUndo(a *engine.App, s *handover.Leaving) error {
	b, err := s.Undo()
	if err != nil {
		return err
	}
	if err := journal.Replace(undoFile(a), b, journal.UntilReboot); err != nil {
		return fmt.Errorf("keep how its sockets go on: %w", err)
	}
	return nil
}

// goOn has the sockets go on that may have been saved.
func goOn(a *engine.App) error {
	b, err := os.ReadFile(undoFile(a))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read how its sockets go on: %w", err)
	}
	if held := a.Endpoint.Held(); held != nil {
		if err := errors.Join(waitAgain(a, held), handover.GoOn(held, b)); err != nil {
			return err
		}
	}
	if err := os.Remove(leavingFile(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(undoFile(a))
}

// waitAgain has those connections wait again that waited to be accepted when the sockets were saved.
func waitAgain(a *engine.App, held *hold.Set) error {
	b, err := os.ReadFile(leavingFile(a))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the sockets of an app that was to leave: %w", err)
	}
	saved, err := handover.Decode(b)
	if err != nil {
		return err
	}
	ns, err := netns.Open(a.Box.NetPath())
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	return handover.Return(ns, held, saved)
}
