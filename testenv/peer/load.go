package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Load is the traffic of a driver. Its methods are safe for concurrent use.
type Load struct {
	cancel context.CancelFunc // breaks everything off
	stop   chan struct{}      // closed: ends everything in order
	once   sync.Once
	wg     sync.WaitGroup
	done   chan struct{} // closed when wg is done

	faults   faults
	sessions []*session
	flows    []*flow
	echo     *echoer // nil unless the responder sends the datagrams
}

func newLoad(ctx context.Context) (context.Context, *Load) {
	// It ends by Stop or Close.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return ctx, &Load{cancel: cancel, stop: make(chan struct{}), done: make(chan struct{})}
}

// start begins the traffic.
func (l *Load) start(ctx context.Context) {
	for _, s := range l.sessions {
		s.stall.begin()
		l.wg.Go(func() { s.run(ctx) })
	}
	for _, f := range l.flows {
		l.wg.Go(func() { f.run(ctx) })
	}
	if l.echo != nil {
		l.wg.Go(func() { l.echo.run(ctx) })
	}
	go func() { // ends when the others have
		l.wg.Wait()
		close(l.done)
	}()
}

// abandon gives up a load that was not started.
func (l *Load) abandon() {
	l.cancel()
	for _, s := range l.sessions {
		_ = s.conn.Close()
	}
	for _, f := range l.flows {
		_ = f.conn.Close()
	}
}

// Dial opens connections and flows to a responder that serves, and begins the
// traffic. The load goes on when ctx ends: the caller ends it by Stop or Close.
func Dial(ctx context.Context, d Dialer, to Target) (*Load, error) {
	run, l := newLoad(ctx)
	if err := l.dial(ctx, d, to, driver); err != nil {
		l.abandon()
		return nil, err
	}
	l.start(run)
	return l, nil
}

// dial opens what the target says.
func (l *Load) dial(ctx context.Context, d Dialer, to Target, mine role) error {
	to.Pattern = to.Pattern.withDefaults()
	if to.TCP != "" {
		for range to.Connections {
			conn, err := d.DialContext(ctx, "tcp", to.TCP)
			if err != nil {
				return fmt.Errorf("connect to peer: %w", err)
			}
			h := hello{role: mine, key: rand.Uint64(), pattern: to.Pattern}
			s, err := newSession(conn, h, mine, Up, &l.faults, l.stop)
			if err == nil {
				s.valve = to.Valve
				l.sessions = append(l.sessions, s)
				err = h.write(conn)
			}
			if err != nil {
				return errors.Join(fmt.Errorf("connect to peer: %w", err), conn.Close())
			}
		}
	}
	if to.UDP != "" {
		for range to.Flows {
			conn, err := d.DialContext(ctx, "udp", to.UDP)
			if err != nil {
				return fmt.Errorf("connect to peer: %w", err)
			}
			f := newFlow(conn, mine, to.Pattern, &l.faults, l.stop)
			f.valve = to.Valve
			l.flows = append(l.flows, f)
		}
	}
	return nil
}

// Source is where a driver waits for what the responder opens. It may have no
// listener, or no socket for datagrams.
type Source struct {
	TCP         net.Listener
	Connections int
	UDP         net.PacketConn
	Flows       int
}

// Await takes the connections and flows that a responder opens ([Connect]) and
// begins the traffic when all are there. It owns the sockets of from, also
// if it fails, and takes no more connections than these.
func Await(ctx context.Context, from Source) (_ *Load, err error) {
	run, l := newLoad(ctx)
	defer func() {
		if from.TCP != nil {
			err = errors.Join(err, from.TCP.Close())
		}
		if err != nil {
			l.abandon()
			if from.UDP != nil {
				err = errors.Join(err, from.UDP.Close())
			}
		}
	}()
	if from.TCP != nil {
		end := context.AfterFunc(ctx, func() { _ = from.TCP.Close() })
		defer end()
		for range from.Connections {
			conn, err := from.TCP.Accept()
			if err != nil {
				return nil, fmt.Errorf("wait for peer: %w", errors.Join(err, ctx.Err()))
			}
			s, err := accept(conn, driver, &l.faults, l.stop)
			if err != nil {
				return nil, err
			}
			l.sessions = append(l.sessions, s)
		}
	}
	if from.UDP != nil {
		l.echo = newEchoer(from.UDP, driver, &l.faults, l.stop)
		l.echo.want = from.Flows
	}
	l.start(run)
	if l.echo != nil {
		if err := l.echo.wait(ctx); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// accept takes a connection that the other side opened, and closes it if that
// fails.
func accept(conn net.Conn, mine role, f *faults, stop <-chan struct{}) (*session, error) {
	err := conn.SetReadDeadline(time.Now().Add(helloTime))
	var h hello
	if err == nil {
		h, err = readHello(conn)
	}
	if err == nil && h.role != mine.other() {
		err = fmt.Errorf("accept peer: both sides are %v", mine)
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	var s *session
	if err == nil {
		s, err = newSession(conn, h, mine, Down, f, stop)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// Stats returns what has happened so far.
func (l *Load) Stats() Stats {
	st := Stats{Connections: len(l.sessions), Faults: l.faults.list()}
	for _, s := range l.sessions {
		st.SentBytes += s.sent.Load()
		st.ReceivedBytes += s.received.Load()
		if m := s.stall.max(); m > st.MaxStall {
			st.MaxStall, st.MaxStallConn = m, s.key
		}
	}
	if isClosed(l.done) {
		for _, s := range l.sessions {
			st.PeerMaxStall = max(st.PeerMaxStall, s.peerStall)
		}
	}
	for _, f := range l.flows {
		f.addTo(&st)
	}
	if l.echo != nil {
		l.echo.addTo(&st)
	}
	return st
}

// Stop ends all streams and flows in order and returns what happened in all,
// and the error of [Stats.Err]. What has not ended when ctx does is broken off,
// and is a fault.
func (l *Load) Stop(ctx context.Context) (Stats, error) {
	l.once.Do(func() { close(l.stop) })
	late := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		for _, s := range l.sessions {
			_ = s.conn.SetDeadline(past) // fails its reads: a Timeout
		}
		for _, f := range l.flows {
			f.giveUp()
		}
		if l.echo != nil {
			l.echo.giveUp()
		}
	})
	<-l.done
	late()
	l.cancel()
	st := l.Stats()
	return st, st.Err()
}

// Close breaks everything off. It does nothing after Stop.
func (l *Load) Close() {
	l.cancel()
	l.once.Do(func() { close(l.stop) })
	<-l.done
}
