package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/api"
)

// Size is that of a terminal.
type Size struct{ Rows, Columns uint32 }

// Exec is a command to run in an app.
type Exec struct {
	Start *api.ExecStart

	// Stdin is the command's input; nil for none. Its Close is called once and
	// has to end a Read under way.
	Stdin io.ReadCloser

	// Stdout and Stderr get the command's output. With a terminal all of it goes
	// to Stdout.
	Stdout, Stderr io.Writer

	// Resize tells the sizes that the terminal takes; may be nil.
	Resize <-chan Size
}

// Exec runs a command in an app and returns its exit code. If ctx ends, the
// daemon ends the command.
func (c *Client) Exec(ctx context.Context, x Exec) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.api.Exec(ctx)
	if err != nil {
		return 0, errors.Join(err, closeInput(x.Stdin))
	}
	first := &api.ExecInput{Input: &api.ExecInput_Start{Start: x.Start}}
	if err := s.Send(first); err != nil && !errors.Is(err, io.EOF) {
		return 0, errors.Join(err, closeInput(x.Stdin))
	}
	// Send returns EOF when the daemon has ended the stream: Recv says why.
	input := make(chan *api.ExecInput)
	var group errgroup.Group
	group.Go(func() error {
		send(ctx, s, input, x.Resize)
		return nil
	})
	group.Go(func() error { return readInput(ctx, x.Stdin, input) })
	code, err := receive(s, x.Stdout, x.Stderr)
	cancel()
	// A failure of the input matters only if nothing else went wrong.
	closed := closeInput(x.Stdin)
	if werr := errors.Join(group.Wait(), closed); err == nil {
		err = werr
	}
	return code, err
}

func closeInput(in io.Closer) error {
	if in == nil {
		return nil
	}
	if err := in.Close(); err != nil {
		return fmt.Errorf("close input: %w", err)
	}
	return nil
}

// readInput passes the input on until it or ctx ends.
func readInput(ctx context.Context, in io.Reader, to chan<- *api.ExecInput) (failed error) {
	pass := func(m *api.ExecInput) bool {
		select {
		case to <- m:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for in != nil {
		b := make([]byte, 32<<10)
		n, err := in.Read(b)
		select {
		case <-ctx.Done():
			return nil // Exec has ended, and closed the input
		default:
		}
		if n > 0 && !pass(&api.ExecInput{Input: &api.ExecInput_Stdin{Stdin: b[:n]}}) {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			failed = fmt.Errorf("read input: %w", err)
		}
		if err != nil {
			break
		}
	}
	pass(&api.ExecInput{Input: &api.ExecInput_StdinClosed{StdinClosed: true}})
	return failed
}

// send is the only one that sends after the start: a stream takes one sender.
func send(ctx context.Context, s grpc.BidiStreamingClient[api.ExecInput, api.ExecOutput], input <-chan *api.ExecInput, resize <-chan Size) {
	for {
		var m *api.ExecInput
		select {
		case m = <-input:
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			m = &api.ExecInput{Input: &api.ExecInput_Resize{Resize: &api.ExecStart{Rows: size.Rows, Columns: size.Columns}}}
		case <-ctx.Done():
			return
		}
		if err := s.Send(m); err != nil {
			return // the stream has ended, and receive learns why
		}
	}
}

// receive writes the output until the stream ends.
func receive(s grpc.BidiStreamingClient[api.ExecInput, api.ExecOutput], stdout, stderr io.Writer) (code int, err error) {
	ended := false
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) && ended {
			return code, nil
		}
		if errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read exit code: %w", ErrNoResult)
		}
		if err != nil {
			return 0, err
		}
		switch out := m.GetOutput().(type) {
		case *api.ExecOutput_Stdout:
			_, err = stdout.Write(out.Stdout)
		case *api.ExecOutput_Stderr:
			_, err = stderr.Write(out.Stderr)
		case *api.ExecOutput_ExitCode:
			code, ended = int(out.ExitCode), true
		}
		if err != nil {
			return 0, fmt.Errorf("write output: %w", err)
		}
	}
}
