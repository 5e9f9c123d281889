package checkpoint

import (
	"context"
	"fmt"
	"log/slog"
)

// Narrow gives the datagram sockets of an app that is about to run their own receive
// buffers back, and tells which have lost datagrams while it slept.
func (t *Tools) Narrow(ctx context.Context, s *Subject) error {
	if s.Held == nil {
		return nil
	}
	lost, err := s.Held.Lost()
	if err != nil { // what is lost is lost: no reason not to wake
		t.Log.ErrorContext(ctx, "look for lost datagrams", slog.String("app", s.Name), slog.Any("error", err))
	}
	for _, l := range lost {
		s.Note(fmt.Sprintf("%d datagrams to %s were lost while the app slept: the socket's buffer was full", l.Count, l.Socket.Local),
			"have datagrams wake it (--wake on-data), or wake it in time")
	}
	return s.Held.Narrow()
}
