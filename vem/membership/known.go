package membership

import (
	"context"
	"log/slog"
	"time"

	"github.com/snapctl/snapctl/vem/pause"
)

// rememberEvery is how often a host writes down at most what it has seen of the directory.
const rememberEvery = 2 * time.Second

// KeepKnown has this host remember what it sees of the directory, until ctx ends: by that the next
// daemon notices if the directory came back without it, also after this one was killed. What was seen
// in the last seconds before that may be missing.
func (m *Membership) KeepKnown(ctx context.Context) {
	last := ""
	for pause.For(ctx, rememberEvery, nil) {
		text := ""
		if err := m.rememberInTurn(ctx); err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != "" && text != last {
			m.opt.Log.WarnContext(ctx, "remember what was seen of the directory", slog.String("error", text))
		}
		last = text
	}
}

func (m *Membership) rememberInTurn(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
		return m.remember()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remember writes what this host has seen of the directory, if that is news. The caller has the turn.
func (m *Membership) remember() error {
	s := m.self.Load()
	if s == nil {
		return nil
	}
	d := s.opened.Load()
	if d == nil || d.Known() == s.record.Known {
		return nil
	}
	next := s.again()
	next.record.Known = d.Known()
	if err := m.save(next.record); err != nil {
		return err
	}
	m.self.Store(next)
	return nil
}
