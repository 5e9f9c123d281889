// Package traffic has many endpoints exchange numbered bytes and datagrams with one
// another: apps that snapctl runs, and strangers, which are plain programs on scratch
// hosts. At the end it says what happened to each byte.
//
//	a := traffic.Member{Name: "a", Addr: endpoint, Via: alpha} // an app runs peer with Args
//	s, err := traffic.Stranger(ctx, gamma, eth0.Addr4())
//	mesh, err := traffic.Start(ctx, traffic.Plan{Members: ..., Pairs: traffic.Everyone(members, 10, 2)})
//	...                                       // move apps, cut links, kill daemons
//	err = mesh.Progress(ctx)                  // every connection has brought something since
//	report, err := mesh.Stop(ctx)
//	err = report.Err()                        // nil: no byte lost, doubled, reordered; no reset
//
// The test is not in the way of the traffic: each member runs the program peer, which
// opens the connections and checks what comes. The test only tells it what to do
// (package peer/remote), each time by a new connection from a host that reaches it.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/peer/remote"
)

// The ports of a member: where others connect to, and where it is told what to do.
const (
	Port        = 7000
	ControlPort = 7001
)

// Args are the arguments of the program peer that make it a member. It listens at one
// address, or, if that is the zero value, at all.
func Args(at netip.Addr) []string {
	host := ""
	if at.IsValid() {
		host = at.String()
		if at.Is6() {
			host = "[" + host + "]"
		}
	}
	return []string{"--listen", host + ":" + strconv.Itoa(Port), "--control", host + ":" + strconv.Itoa(ControlPort)}
}

// Member is an endpoint that takes part.
type Member struct {
	Name string
	Addr netip.Addr  // where others reach it
	Via  peer.Dialer // who reaches its control port: the host that it is on
}

// Pair says what one member opens to another one. Bytes then go both ways.
type Pair struct {
	From, To    string
	Connections int
	Flows       int // of datagrams, each of which is to be answered
}

// Everyone pairs each member with each other one, in both directions.
func Everyone(members []Member, connections, flows int) []Pair {
	var pairs []Pair
	for _, from := range members {
		for _, to := range members {
			if from.Name != to.Name {
				pairs = append(pairs, Pair{From: from.Name, To: to.Name, Connections: connections, Flows: flows})
			}
		}
	}
	return pairs
}

// Plan is the traffic of a mesh.
type Plan struct {
	Members []Member
	Pairs   []Pair
	Pattern peer.Pattern
}

// Mesh is running traffic. Its methods may be called at the same time, but Reconnect
// and Stop only one at a time.
type Mesh struct {
	members map[string]Member
	pattern peer.Pattern
	pairs   []*running

	mu      sync.Mutex
	clients map[string]*remote.Client
}

// running is a pair with what has ended of it.
type running struct {
	Pair
	round int // of connecting
	past  []peer.Report
}

func (r *running) id() string { return fmt.Sprintf("%s to %s, %d", r.From, r.To, r.round) }

// pollTime is between two questions for what announces itself by nothing.
const pollTime = 20 * time.Millisecond

// Start waits until all members are there, has them connect and returns when all
// connections are open. What was begun when it fails goes on until the members end.
func Start(ctx context.Context, plan Plan) (*Mesh, error) {
	m := &Mesh{members: make(map[string]Member), clients: make(map[string]*remote.Client), pattern: plan.Pattern}
	for _, member := range plan.Members {
		if _, ok := m.members[member.Name]; ok {
			return nil, fmt.Errorf("start traffic: two members are called %s", member.Name)
		}
		m.members[member.Name] = member
		m.Reach(member.Name, member.Via)
	}
	for _, p := range plan.Pairs {
		for _, name := range []string{p.From, p.To} {
			if _, ok := m.members[name]; !ok {
				return nil, fmt.Errorf("start traffic: there is no member %s", name)
			}
		}
		m.pairs = append(m.pairs, &running{Pair: p})
	}
	err := m.each(nil, func(c *remote.Client) error {
		return again(ctx, func() error { return c.Resume(ctx) }) // it is starting
	})
	if err == nil {
		err = m.every(m.begin(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("start traffic: %w", err)
	}
	return m, nil
}

// Reach says who reaches the control port of a member from now on, such as the host
// that it was moved to.
func (m *Mesh) Reach(name string, via peer.Dialer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clients[name] = remote.NewClient(via, netip.AddrPortFrom(m.members[name].Addr, ControlPort).String())
}

func (m *Mesh) client(name string) *remote.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clients[name]
}

// again calls fn until it succeeds or ctx ends.
func again(ctx context.Context, fn func() error) error {
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// each calls fn for the members of these names, or for all, at once.
func (m *Mesh) each(names []string, fn func(*remote.Client) error) error {
	if len(names) == 0 {
		for name := range m.members {
			names = append(names, name)
		}
	}
	return atOnce(names, func(name string) error {
		c := m.client(name)
		if c == nil {
			return fmt.Errorf("there is no member %s", name)
		}
		return fn(c)
	})
}

// every calls fn for all pairs at once.
func (m *Mesh) every(fn func(*running) error) error { return atOnce(m.pairs, fn) }

// maxAtOnce bounds the requests under way.
const maxAtOnce = 32

func atOnce[T any](list []T, fn func(T) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(list))
	room := make(chan struct{}, maxAtOnce)
	for i, one := range list {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			errs[i] = fn(one)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// begin opens the connections of a pair.
func (m *Mesh) begin(ctx context.Context) func(*running) error {
	return func(r *running) error {
		to := netip.AddrPortFrom(m.members[r.To].Addr, Port).String()
		return m.client(r.From).Begin(ctx, r.id(), peer.Target{
			TCP: to, Connections: r.Connections, UDP: to, Flows: r.Flows, Pattern: m.pattern,
		})
	}
}

// end closes the connections of a pair in order and keeps what they saw.
func (m *Mesh) end(ctx context.Context) func(*running) error {
	return func(r *running) error {
		report, err := m.client(r.From).End(ctx, r.id())
		if err != nil {
			return err
		}
		r.past = append(r.past, report)
		r.round++
		return nil
	}
}

// Pause lets members, or all of them, send nothing more; what they have open stays
// open. The time does not count as a stall.
func (m *Mesh) Pause(ctx context.Context, names ...string) error {
	err := m.each(names, func(c *remote.Client) error { return c.Pause(ctx) })
	if err != nil {
		return fmt.Errorf("pause traffic: %w", err)
	}
	return nil
}

// Resume undoes Pause.
func (m *Mesh) Resume(ctx context.Context, names ...string) error {
	err := m.each(names, func(c *remote.Client) error { return c.Resume(ctx) })
	if err != nil {
		return fmt.Errorf("resume traffic: %w", err)
	}
	return nil
}

// Reconnect ends all connections in order and opens as many new ones.
func (m *Mesh) Reconnect(ctx context.Context) error {
	err := m.every(m.end(ctx))
	if err == nil {
		err = m.every(m.begin(ctx))
	}
	if err != nil {
		return fmt.Errorf("reconnect: %w", err)
	}
	return nil
}

// Progress waits until each connection has brought bytes, and each flow an answer,
// that had not come when it was called. It returns an error at the first fault of a
// connection, and when ctx ends, which says who is stuck.
func (m *Mesh) Progress(ctx context.Context) error {
	err := m.every(func(r *running) error {
		before, err := m.client(r.From).Report(ctx, r.id())
		if err != nil {
			return err
		}
		return again(ctx, func() error {
			now, err := m.client(r.From).Report(ctx, r.id())
			if err != nil {
				return err
			}
			return stuck(r, before, now)
		})
	})
	if err != nil {
		return fmt.Errorf("wait for progress: %w", err)
	}
	return nil
}

// stuck returns nil if all of a pair has moved.
func stuck(r *running, before, now peer.Report) error {
	for i, s := range now.Streams {
		if s.ReceivedBytes <= before.Streams[i].ReceivedBytes {
			return fmt.Errorf("%s to %s: nothing has come on the connection from %s to %s", r.From, r.To, s.Local, s.Remote)
		}
	}
	for i, f := range now.Sent {
		if f.Answered <= before.Sent[i].Answered {
			return fmt.Errorf("%s to %s: no datagram was answered from %s to %s", r.From, r.To, f.Local, f.Remote)
		}
	}
	return nil
}

// Stop ends all in order, as far as it can until ctx's deadline, and returns what
// happened. Faults are in the report; an error is that a member could not be asked.
func (m *Mesh) Stop(ctx context.Context) (Report, error) {
	err := m.every(m.end(ctx))
	var report Report
	for _, r := range m.pairs {
		report.Pairs = append(report.Pairs, PairReport{Pair: r.Pair, Rounds: slices.Clone(r.past)})
	}
	if err != nil {
		return report, fmt.Errorf("stop traffic: %w", err)
	}
	return report, nil
}
