package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/vem/pause"
)

// Logs implements the API.
func (srv *Server) Logs(req *api.LogsRequest, stream grpc.ServerStreamingServer[api.LogsChunk]) error {
	a, err := srv.rooms.Apps.Get(req.GetName())
	if err != nil {
		return err
	}
	f, err := os.Open(a.Box.LogFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil // it never ran
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	if err := seekTail(f, req.GetTailLines()); err != nil {
		return err
	}
	over := func() bool {
		s := a.Status()
		return !req.GetFollow() || s == app.Stopped || s == app.Removing
	}
	return follow(stream.Context(), f, over, func(b []byte) error { return stream.Send(&api.LogsChunk{Data: b}) })
}

// follow sends what is in a log, and what comes until it is over or ctx ends.
func follow(ctx context.Context, log io.Reader, over func() bool, send func([]byte) error) error {
	for {
		last := over() // before it is read: what the app printed last is in there by then
		if err := drain(log, send); err != nil {
			return err
		}
		if last {
			return nil
		}
		if !pause.For(ctx, 100*time.Millisecond, nil) {
			return context.Cause(ctx)
		}
	}
}

func drain(r io.Reader, send func([]byte) error) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := send(bytes.Clone(buf[:n])); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
}

// seekTail goes to the beginning of the last lines; 0 means all.
func seekTail(f *os.File, lines int64) error {
	if lines <= 0 {
		return nil
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	buf := make([]byte, 64<<10)
	for at := end; at > 0; {
		n := min(int64(len(buf)), at)
		at -= n
		if _, err := f.ReadAt(buf[:n], at); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		for i := n - 1; i >= 0; i-- {
			if buf[i] != '\n' || at+i == end-1 {
				continue
			}
			if lines--; lines == 0 {
				_, err := f.Seek(at+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
