package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
)

// Service is the responder to drivers that connect ([Dial]).
type Service struct {
	TCP   net.Listener   // may be nil
	UDP   net.PacketConn // may be nil
	Valve *Valve         // pauses what it sends; may be nil
	Log   *slog.Logger   // is told of faults, as the driver is
}

// Serve is the responder to drivers that connect, without a valve: [Service.Serve].
func Serve(ctx context.Context, l net.Listener, datagrams net.PacketConn, log *slog.Logger) error {
	return Service{TCP: l, UDP: datagrams, Log: log}.Serve(ctx)
}

// Serve answers until ctx ends, which breaks off what is not ended. It closes the
// sockets.
func (v Service) Serve(ctx context.Context) error {
	var found faults
	var wg sync.WaitGroup
	defer wg.Wait()
	never := make(chan struct{})
	if v.UDP != nil {
		e := newEchoer(v.UDP, responder, &found, never)
		wg.Go(func() { e.run(ctx) })
	}
	if v.TCP == nil {
		<-ctx.Done()
		return nil
	}
	defer v.TCP.Close() //nolint:errcheck // it is done with
	defer context.AfterFunc(ctx, func() { _ = v.TCP.Close() })()
	for {
		conn, err := v.TCP.Accept()
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
				v.Log.WarnContext(ctx, "refused a connection", slog.Any("error", err))
				return
			}
			s.valve = v.Valve
			s.run(ctx)
			if s.finding != nil {
				v.Log.WarnContext(ctx, "found a fault", slog.Any("fault", s.finding))
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
