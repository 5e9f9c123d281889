package move

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
)

// Round is one snapshot of a running app that was sent ahead.
type Round struct {
	Carried
	Frozen time.Duration // how long the app stood still for it
	Took   time.Duration // to take it and to send it: about as long the app would stand still for the next
}

const (
	// mostRounds bounds how many snapshots are sent ahead.
	mostRounds = 8
	// shortRound is what is not worth another round, if nobody has asked for a shorter pause.
	shortRound = 300 * time.Millisecond
)

// another tells whether one more round is worth while after those that were: the last took too long, and was
// shorter than the one before by a quarter at least.
func another(rounds []Round, maxPause time.Duration) bool {
	n := len(rounds)
	if n == 0 {
		return true
	}
	enough := maxPause
	if enough == 0 {
		enough = shortRound
	}
	if n >= mostRounds || rounds[n-1].Took <= enough {
		return false
	}
	return n == 1 || 4*rounds[n-1].Took <= 3*rounds[n-2].Took
}

// sendAhead has the target get most of a running app while it runs.
func (m *Mover) sendAhead(ctx context.Context, a *engine.App, req Request, f *farewell) error {
	r := f.report
	for another(r.Rounds, req.MaxPause) {
		round, err := m.sendRound(ctx, a, req, f)
		if err != nil {
			return err
		}
		r.Rounds = append(r.Rounds, round)
		r.add(round.Carried)
	}
	if last := r.Rounds[len(r.Rounds)-1].Took; req.MaxPause > 0 && last > req.MaxPause {
		return app.Refusef("it changes too fast: after %d rounds it would stand still for some %s, and may for %s", len(r.Rounds), last.Round(time.Millisecond), req.MaxPause)
	}
	return nil
}

// sendRound takes a snapshot and sends it.
func (m *Mover) sendRound(ctx context.Context, a *engine.App, req Request, f *farewell) (r Round, err error) {
	began := time.Now()
	before := f.snapshot
	_, out, err := m.opt.Engine.TakeSnapshot(ctx, a, engine.SnapshotRequest{Name: f.nextSnapshot(), Accept: req.Accept, Passing: true, Op: req.Op})
	if err != nil {
		return r, err
	}
	req.Op.Step(fmt.Sprintf("send round %d", len(f.report.Rounds)+1))
	r.Carried, err = m.carry(ctx, f, req.Told)
	req.Op.EndStep()
	r.Frozen, r.Took = out.Frozen, time.Since(began)
	if before != "" && err == nil {
		m.forget(ctx, before)
	}
	return r, err
}

// newJourney returns a name that no other move has.
func newJourney() string { return strings.ToLower(rand.Text()[:journeyLength]) }

const journeyLength = 12

// passingPrefix begins the names of snapshots that are made for moves.
const passingPrefix = "moving-"

// nameOf is the name of a snapshot of a journey, on both hosts.
func nameOf(journey string, n int) string { return fmt.Sprintf("%s%s-%d", passingPrefix, journey, n) }

// journeyOf is the journey to which a snapshot belongs, "" if to none.
func journeyOf(name string) string {
	rest, ok := strings.CutPrefix(name, passingPrefix)
	journey, n, more := strings.Cut(rest, "-")
	if _, err := strconv.Atoi(n); !ok || !more || err != nil || len(journey) != journeyLength {
		return ""
	}
	return journey
}

// nextSnapshot names one more snapshot of a journey.
func (f *farewell) nextSnapshot() string {
	f.sent++
	f.snapshot = nameOf(f.journey, f.sent)
	return f.snapshot
}

// forgetAll removes the snapshots of a journey from this host.
func (m *Mover) forgetAll(ctx context.Context, journey string) {
	names, err := m.opt.Engine.Store.Names()
	if err != nil {
		m.opt.Log.WarnContext(ctx, "look for snapshots that were made for a move", slog.Any("error", err))
	}
	for _, name := range names {
		if journeyOf(name) == journey {
			m.forget(ctx, name)
		}
	}
}

// forget removes a snapshot that was made for a move.
func (m *Mover) forget(ctx context.Context, name string) {
	_, s, err := m.opt.Engine.Store.Find(name)
	if err == nil && s.Passing {
		m.remove(ctx, name)
	}
}

func (m *Mover) remove(ctx context.Context, name string) {
	if err := m.opt.Engine.Store.Remove(name); err != nil {
		m.opt.Log.WarnContext(ctx, "a snapshot that was made for a move stays until snapctld is started again", slog.String("snapshot", name), slog.Any("error", err))
		return
	}
	m.opt.Engine.Storage.SweepSoon()
}
