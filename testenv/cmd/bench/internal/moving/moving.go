// Package moving measures what clients of an app notice that moves to another host.
package moving

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
	"github.com/snapctl/snapctl/testenv/host"
)

// rate is what apps with memory write to it meanwhile, in MiB a second.
const rate = 50

// Measure moves servers between two hosts, by their memory and their number of connections, and stock CRIU's way beside:
// dump, copy of the images over the same cable, and restore.
func Measure(ctx context.Context, b *rig.Bench) error {
	for _, mib := range sizes(b) {
		for _, n := range counts(b) {
			name := fmt.Sprintf("move/pause/memory=%dMiB/connections=%d", mib, n)
			if !b.Wants(name) {
				continue
			}
			if err := row(ctx, b, name, mib, n); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func sizes(b *rig.Bench) []int {
	if b.Small {
		return []int{16}
	}
	return []int{16, 256, 1024}
}

func counts(b *rig.Bench) []int {
	if b.Small {
		return []int{1, 100}
	}
	return []int{1, 100, 1000}
}

// measured are medians of several moves.
type measured struct {
	pause, packets, handover, whole, sent []float64
}

func row(ctx context.Context, b *rig.Bench, name string, mib, connections int) error {
	var ours measured
	var theirs []float64
	err := rig.WithInstallation(ctx, func(alpha, beta *rig.World, cable *host.Link) error {
		args := []string{"-memory", fmt.Sprint(mib), "-write", fmt.Sprint(rate)}
		s, err := begin(ctx, alpha, beta, connections, args)
		if err != nil {
			return err
		}
		for range b.Passes {
			if err := s.move(ctx, &ours); err != nil {
				return errors.Join(err, s.end(ctx))
			}
		}
		if err := s.end(ctx); err != nil {
			return err
		}
		for range b.Passes {
			took, err := stock(ctx, alpha, beta, cable, connections, args)
			if err != nil {
				return err
			}
			theirs = append(theirs, rig.MS(took))
		}
		return nil
	})
	if err != nil {
		return err
	}
	goal := 0.0
	if mib == 1024 && connections == 1000 {
		goal = 1.0 / 20
	}
	b.Report.Add(report.Row{
		Name: name, Unit: "ms", Ours: report.Median(ours.pause), Other: report.Median(theirs), OtherName: "criu dump, copy, criu restore", Goal: goal,
	})
	for part, values := range map[string][]float64{"packets-wait": ours.packets, "handover": ours.handover, "total": ours.whole} {
		b.Report.Add(report.Row{Name: name + "/" + part, Unit: "ms", Ours: report.Median(values)})
	}
	b.Report.Add(report.Row{Name: name + "/sent", Unit: "MiB", Ours: report.Median(ours.sent)})
	return nil
}

// service is an app with clients.
type service struct {
	at, other *rig.World
	clients   []net.Conn
	watch     *watch
}

func begin(ctx context.Context, alpha, beta *rig.World, connections int, args []string) (*service, error) {
	if err := alpha.Program(ctx, "subject", rig.Endpoint, "subject", args...); err != nil {
		return nil, err
	}
	s := &service{at: alpha, other: beta}
	if err := alpha.Answers(ctx, rig.Endpoint); err != nil {
		return nil, err
	}
	var err error
	// They are on the other host at first.
	if s.clients, err = beta.Crowd(ctx, rig.Endpoint, connections); err != nil {
		return nil, err
	}
	watched, err := beta.Dial(ctx, rig.Endpoint)
	if err != nil {
		return nil, err
	}
	s.watch = follow(watched)
	return s, nil
}

// move moves the app to the host where it is not, and back the next time. All clients go on.
func (s *service) move(ctx context.Context, m *measured) error {
	rig.Rest(ctx, time.Second)
	s.watch.reset()
	r, err := s.at.Snapctl(ctx, "migrate", "subject", "--to", s.other.Name(), "-o", "json")
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("migrate: %s", r.Stderr)
	}
	var moved struct {
		SentBytes int64            `json:"sent_bytes"`
		PauseUS   float64          `json:"pause_us"`
		TotalUS   float64          `json:"total_us"`
		StepsUS   map[string]int64 `json:"steps_us"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &moved); err != nil {
		return fmt.Errorf("read what migrate says: %w", err)
	}
	s.at, s.other = s.other, s.at
	for _, c := range s.clients {
		if _, err := rig.Ping(c); err != nil {
			return fmt.Errorf("a client that was connected: %w", err)
		}
	}
	longest, err := s.watch.longest()
	if err != nil {
		return err
	}
	m.pause = append(m.pause, rig.MS(longest))
	m.packets = append(m.packets, moved.PauseUS/1000)
	m.handover = append(m.handover, float64(moved.StepsUS["hand sockets over"])/1000)
	m.whole = append(m.whole, moved.TotalUS/1000)
	m.sent = append(m.sent, float64(moved.SentBytes)/(1<<20))
	return nil
}

func (s *service) end(ctx context.Context) error {
	s.watch.close()
	rig.CloseAll(s.clients)
	return s.at.Remove(ctx, "subject")
}

// watch is a client that asks again as soon as it is answered.
type watch struct {
	conn    net.Conn
	restart chan struct{}
	ask     chan chan time.Duration
	done    chan struct{}
	err     error // when done is closed
}

func follow(conn net.Conn) *watch {
	w := &watch{conn: conn, restart: make(chan struct{}), ask: make(chan chan time.Duration), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		longest := time.Duration(0)
		for {
			took, err := rig.Ping(conn)
			if err != nil {
				w.err = err
				return
			}
			longest = max(longest, took)
			select {
			case <-w.restart:
				longest = 0
			case answer := <-w.ask:
				answer <- longest
			default:
			}
		}
	}()
	return w
}

func (w *watch) reset() {
	select {
	case w.restart <- struct{}{}:
	case <-w.done:
	}
}

// longest is how long it waited at most for an answer since the last reset.
func (w *watch) longest() (time.Duration, error) {
	answer := make(chan time.Duration, 1)
	select {
	case w.ask <- answer:
		return <-answer, nil
	case <-w.done:
		return 0, w.err
	}
}

func (w *watch) close() {
	_ = w.conn.Close() // a client that is done
	<-w.done
}
