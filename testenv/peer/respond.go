package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
)

// Serve is the responder to drivers that connect ([Dial]). Either socket may be
// nil; Serve closes both. It returns when ctx ends, which breaks off what is
// not ended. Faults are told to the driver, and logged.
func Serve(ctx context.Context, l net.Listener, datagrams net.PacketConn, log *slog.Logger) error {
	var found faults
	var wg sync.WaitGroup
	defer wg.Wait()
	never := make(chan struct{})
	if datagrams != nil {
		e := newEchoer(datagrams, responder, &found, never)
		wg.Go(func() { e.run(ctx) })
	}
	if l == nil {
		<-ctx.Done()
		return nil
	}
	defer l.Close() //nolint:errcheck // it is done with
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				err = conn.Close()
			}
			return ignoreClosed(err)
		}
		if err != nil {
			return fmt.Errorf("serve peers: %w", err)
		}
		wg.Go(func() {
			s, err := accept(conn, responder, &found, never)
			if err != nil {
				log.WarnContext(ctx, "refused a connection", slog.Any("error", err))
				return
			}
			s.run(ctx)
			if s.finding != nil {
				log.WarnContext(ctx, "found a fault", slog.Any("fault", s.finding))
			}
		})
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Connect is the responder that connects to a driver ([Await]). It returns
// when the driver has ended all, or ctx has, which breaks off what is left.
func Connect(ctx context.Context, d Dialer, to Target) error {
	_, l := newLoad(ctx)
	if err := l.dial(ctx, d, to, responder); err != nil {
		l.abandon()
		return err
	}
	l.start(ctx)
	<-l.done
	l.cancel()
	return l.Stats().Err()
}
