package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// stall measures how much longer than the server was away a peer waits for the
// answer to a byte that it sent meanwhile: nothing is lost, but TCP may have
// backed off.
func stall(ctx context.Context, b *rig.Bench) error {
	holds := []time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second}
	if b.Small {
		holds = holds[:2]
	}
	for _, hold := range holds {
		name := "hold/stall/" + hold.String()
		if !b.Wants(name) {
			continue
		}
		var ours, theirs []float64
		err := rig.WithWorld(ctx, func(w *rig.World) error {
			if err := w.Subject(ctx, "subject", rig.Endpoint, 0); err != nil {
				return err
			}
			conns, err := w.Crowd(ctx, rig.Endpoint, 100)
			if err != nil {
				return err
			}
			defer rig.CloseAll(conns)
			for range b.Passes {
				extra, err := stallOurs(ctx, w, conns, hold)
				if err != nil {
					return err
				}
				ours = append(ours, extra...)
				if extra, err = stallStock(ctx, w, hold); err != nil {
					return err
				}
				theirs = append(theirs, extra...)
			}
			return w.Remove(ctx, "subject")
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.Report.Add(report.Row{
			Name: name, Unit: "ms p99", Ours: report.Percentile(ours, 99), Other: report.Percentile(theirs, 99), OtherName: "criu nftables lock",
			Goal: 5, GoalOn: "ours",
		})
	}
	return nil
}

// away sends a byte on each connection, waits, has the server brought back, and
// returns for each connection how long after that its answer came, in ms; 0 if
// it came before the command that brought it back had returned.
func away(ctx context.Context, conns []net.Conn, hold time.Duration, back func() error) ([]float64, error) {
	buf := []byte{'x'}
	for _, c := range conns {
		if err := c.SetDeadline(time.Now().Add(hold + 2*time.Minute)); err != nil {
			return nil, err
		}
		if _, err := c.Write(buf); err != nil {
			return nil, err
		}
	}
	timer := time.NewTimer(hold)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	type answer struct {
		at  time.Time
		err error
	}
	answers := make(chan answer, len(conns))
	for _, c := range conns {
		go func() {
			_, err := c.Read(make([]byte, 1))
			answers <- answer{time.Now(), err}
		}()
	}
	if err := back(); err != nil {
		return nil, err
	}
	returned := time.Now()
	extra := make([]float64, 0, len(conns))
	for range conns {
		a := <-answers
		if a.err != nil {
			return nil, a.err
		}
		extra = append(extra, max(0, rig.MS(a.at.Sub(returned))))
	}
	return extra, nil
}

// stallOurs holds the app; nothing but the command wakes it.
func stallOurs(ctx context.Context, w *rig.World, conns []net.Conn, hold time.Duration) ([]float64, error) {
	if _, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil); err != nil {
		return nil, err
	}
	return away(ctx, conns, hold, func() error {
		_, err := w.API.Wake(ctx, &api.WakeRequest{Name: "subject"}, nil)
		return err
	})
}

// stallStock has CRIU save and restore the connections, behind its lock.
func stallStock(ctx context.Context, w *rig.World, hold time.Duration) ([]float64, error) {
	s, err := w.StockSubject(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer s.End()
	conns, err := w.Crowd(ctx, rig.Loopback, 20)
	if err != nil {
		return nil, err
	}
	defer rig.CloseAll(conns)
	if _, err := s.Dump(ctx, "nftables"); err != nil {
		return nil, err
	}
	return away(ctx, conns, hold, func() error {
		_, err := s.Restore(ctx, "--tcp-established")
		return err
	})
}
