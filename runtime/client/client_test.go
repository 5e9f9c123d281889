package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// server answers what a test tells it to.
type server struct {
	api.UnimplementedSnapctlServer
	show      func(context.Context) (*api.App, error)
	hibernate func(grpc.ServerStreamingServer[api.Event]) error
	logs      func(grpc.ServerStreamingServer[api.LogsChunk]) error
	exec      func(grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]) error
	clone     func(grpc.ServerStreamingServer[api.CloneEvent]) error
}

func (s *server) Show(ctx context.Context, _ *api.AppRequest) (*api.App, error) { return s.show(ctx) }

func (s *server) Hibernate(_ *api.HibernateRequest, out grpc.ServerStreamingServer[api.Event]) error {
	return s.hibernate(out)
}

func (s *server) Logs(_ *api.LogsRequest, out grpc.ServerStreamingServer[api.LogsChunk]) error {
	return s.logs(out)
}

func (s *server) Exec(both grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]) error {
	return s.exec(both)
}

// start serves s until the test ends and returns a client.
func start(t *testing.T, s *server) *client.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	qt.Assert(t, qt.IsNil(err))
	g := grpc.NewServer()
	api.RegisterSnapctlServer(g, s)
	done := make(chan error)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; !errors.Is(err, grpc.ErrServerStopped) { // stopped before it served
			qt.Check(t, qt.IsNil(err))
		}
	})
	c, err := client.Dial(t.Context(), socket)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(c.Close())) })
	return c
}

func TestDialErrors(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	qt.Assert(t, qt.IsNil(err))
	l.SetUnlinkOnClose(false)
	qt.Assert(t, qt.IsNil(l.Close()))

	for name, socket := range map[string]string{"absent": filepath.Join(dir, "absent"), "left behind": stale} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Dial(t.Context(), socket)
			qt.Assert(t, qt.ErrorIs(err, client.ErrNotRunning))
			qt.Assert(t, qt.StringContains(err.Error(), socket))
		})
	}
}

func TestDialThenCloseWithoutRequest(t *testing.T) {
	c := start(t, &server{})
	qt.Assert(t, qt.IsNil(c.Close()))
	_, err := c.Show(t.Context(), "cache")
	qt.Assert(t, qt.IsNotNil(err))
}

func TestErrors(t *testing.T) {
	for name, test := range map[string]struct {
		code codes.Code
		want error
	}{
		"not found":     {codes.NotFound, errdefs.ErrNotFound},
		"exists":        {codes.AlreadyExists, errdefs.ErrAlreadyExists},
		"busy":          {codes.Aborted, errdefs.ErrAborted},
		"argument":      {codes.InvalidArgument, errdefs.ErrInvalidArgument},
		"state":         {codes.FailedPrecondition, errdefs.ErrFailedPrecondition},
		"unsupported":   {codes.Unimplemented, errdefs.ErrNotImplemented},
		"damaged":       {codes.DataLoss, errdefs.ErrDataLoss},
		"took too long": {codes.DeadlineExceeded, context.DeadlineExceeded},
		"unclassified":  {codes.Unknown, errdefs.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			fail := func(set func(metadata.MD) error) error {
				if err := set(metadata.Pairs("snapctl-hint", "do this", "snapctl-hint", "then that")); err != nil {
					return err
				}
				return status.Error(test.code, "no luck")
			}
			c := start(t, &server{
				show: func(ctx context.Context) (*api.App, error) {
					return nil, fail(func(md metadata.MD) error { return grpc.SetTrailer(ctx, md) })
				},
				hibernate: func(out grpc.ServerStreamingServer[api.Event]) error {
					return fail(func(md metadata.MD) error { out.SetTrailer(md); return nil })
				},
			})
			_, unary := c.Show(t.Context(), "cache")
			_, stream := c.Hibernate(t.Context(), &api.HibernateRequest{}, nil)
			for _, err := range []error{unary, stream} {
				qt.Check(t, qt.ErrorIs(err, test.want))
				qt.Check(t, qt.ErrorMatches(err, "no luck"))
				qt.Check(t, qt.DeepEquals(client.Hints(err), []string{"do this", "then that"}))
			}
		})
	}
}

func TestErrorTextIsNotRepeated(t *testing.T) {
	st, err := status.New(codes.NotFound, "app x: not found\nundo: no").WithDetails(status.New(codes.Unknown, "undo: no").Proto())
	qt.Assert(t, qt.IsNil(err))
	c := start(t, &server{show: func(context.Context) (*api.App, error) { return nil, st.Err() }})
	_, err = c.Show(t.Context(), "x")
	qt.Assert(t, qt.Equals(err.Error(), "app x: not found\nundo: no"))
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrNotFound))
}

func TestLargeAnswer(t *testing.T) {
	c := start(t, &server{show: func(context.Context) (*api.App, error) {
		return &api.App{Name: strings.Repeat("x", 8<<20)}, nil
	}})
	a, err := c.Show(t.Context(), "x")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(a.GetName(), 8<<20))
}

func TestEvents(t *testing.T) {
	c := start(t, &server{hibernate: func(out grpc.ServerStreamingServer[api.Event]) error {
		for _, step := range []string{"freeze", "save memory"} {
			if err := out.Send(&api.Event{Event: &api.Event_Progress{Progress: &api.Progress{Step: step}}}); err != nil {
				return err
			}
		}
		return out.Send(&api.Event{Event: &api.Event_Result{Result: &api.Result{FrozenUs: 7}}})
	}})
	var steps []string
	r, err := c.Hibernate(t.Context(), &api.HibernateRequest{}, func(p *api.Progress) { steps = append(steps, p.GetStep()) })
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.GetFrozenUs(), 7))
	qt.Assert(t, qt.DeepEquals(steps, []string{"freeze", "save memory"}))
}

func TestEventsWithoutResult(t *testing.T) {
	c := start(t, &server{hibernate: func(grpc.ServerStreamingServer[api.Event]) error { return nil }})
	_, err := c.Hibernate(t.Context(), &api.HibernateRequest{}, nil)
	qt.Assert(t, qt.ErrorIs(err, client.ErrNoResult))
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := start(t, &server{hibernate: func(out grpc.ServerStreamingServer[api.Event]) error {
		cancel()
		<-out.Context().Done()
		return out.Context().Err()
	}})
	_, err := c.Hibernate(ctx, &api.HibernateRequest{}, nil)
	qt.Assert(t, qt.ErrorIs(err, context.Canceled))
}

// failingWriter fails on the first write.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, fs.ErrClosed }

func TestLogs(t *testing.T) {
	c := start(t, &server{logs: func(out grpc.ServerStreamingServer[api.LogsChunk]) error {
		return errors.Join(out.Send(&api.LogsChunk{Data: []byte("one\n")}), out.Send(&api.LogsChunk{Data: []byte("two\n")}))
	}})
	var b bytes.Buffer
	qt.Assert(t, qt.IsNil(c.Logs(t.Context(), &api.LogsRequest{}, &b)))
	qt.Assert(t, qt.Equals(b.String(), "one\ntwo\n"))
	qt.Assert(t, qt.ErrorIs(c.Logs(t.Context(), &api.LogsRequest{}, failingWriter{}), fs.ErrClosed))
}

// echo is a command that prints its input and the terminal's sizes.
func echo(both grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]) error {
	for {
		m, err := both.Recv()
		if err != nil {
			return err
		}
		var out *api.ExecOutput
		switch in := m.GetInput().(type) {
		case *api.ExecInput_Start:
			out = &api.ExecOutput{Output: &api.ExecOutput_Stderr{Stderr: []byte(strings.Join(in.Start.GetArgs(), " "))}}
		case *api.ExecInput_Stdin:
			out = &api.ExecOutput{Output: &api.ExecOutput_Stdout{Stdout: in.Stdin}}
		case *api.ExecInput_Resize:
			out = &api.ExecOutput{Output: &api.ExecOutput_ExitCode{ExitCode: int32(in.Resize.GetRows())}}
		case *api.ExecInput_StdinClosed:
			out = &api.ExecOutput{Output: &api.ExecOutput_ExitCode{ExitCode: 3}}
		}
		if err := both.Send(out); err != nil {
			return err
		}
		if _, ended := out.GetOutput().(*api.ExecOutput_ExitCode); ended {
			return nil
		}
	}
}

func TestExec(t *testing.T) {
	c := start(t, &server{exec: echo})
	large := strings.Repeat("0123456789", 100_000)
	for name, test := range map[string]struct {
		stdin io.ReadCloser
		want  string
	}{
		"no input":    {nil, ""},
		"input":       {io.NopCloser(strings.NewReader("hello")), "hello"},
		"large input": {io.NopCloser(strings.NewReader(large)), large},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code, err := c.Exec(t.Context(), client.Exec{
				Start: &api.ExecStart{Args: []string{"a", "b"}}, Stdin: test.stdin, Stdout: &stdout, Stderr: &stderr,
			})
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(code, 3))
			qt.Assert(t, qt.Equals(stdout.String(), test.want))
			qt.Assert(t, qt.Equals(stderr.String(), "a b"))
		})
	}
}

// The command ends while its input is still open: Exec has to end it.
func TestExecEndsBeforeItsInput(t *testing.T) {
	c := start(t, &server{exec: echo})
	in, keep := io.Pipe()
	t.Cleanup(func() { qt.Check(t, qt.IsNil(keep.Close())) })
	sizes := make(chan client.Size, 1)
	sizes <- client.Size{Rows: 24, Columns: 80}
	code, err := c.Exec(t.Context(), client.Exec{Start: &api.ExecStart{}, Stdin: in, Stdout: io.Discard, Stderr: io.Discard, Resize: sizes})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(code, 24))
}

func TestExecFails(t *testing.T) {
	for name, test := range map[string]struct {
		exec func(grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]) error
		x    client.Exec
		want error
	}{
		"refused": {
			func(grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]) error {
				return status.Error(codes.NotFound, "app x: not found")
			},
			client.Exec{Stdin: io.NopCloser(strings.NewReader("hello"))},
			errdefs.ErrNotFound,
		},
		"no exit code": {
			func(grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]) error { return nil },
			client.Exec{},
			client.ErrNoResult,
		},
		"output closed": {echo, client.Exec{Stdin: io.NopCloser(strings.NewReader("hello")), Stdout: failingWriter{}}, fs.ErrClosed},
		"input broken":  {echo, client.Exec{Stdin: io.NopCloser(broken{})}, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, &server{exec: test.exec})
			x := test.x
			x.Start = &api.ExecStart{}
			x.Stderr = io.Discard
			_, err := c.Exec(t.Context(), x)
			qt.Assert(t, qt.ErrorIs(err, test.want))
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestHintsOfWrappedErrors(t *testing.T) {
	qt.Assert(t, qt.HasLen(client.Hints(nil), 0))
	qt.Assert(t, qt.HasLen(client.Hints(errors.New("x")), 0))
}
