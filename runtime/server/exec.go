package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/server/program"
)

// Exec implements the API: it runs a command beside the app's processes. The
// command is not part of the app: see session.
func (srv *Server) Exec(stream grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	a, err := srv.rooms.Apps.Get(start.GetName())
	if err != nil {
		return err
	}
	cmd, pid, err := srv.execCommand(stream.Context(), a, start)
	if err != nil {
		return err
	}
	out := &execOutput{stream: stream}
	console, err := connectIO(cmd, start, out)
	if err != nil {
		return err
	}
	defer console.Close() //nolint:errcheck // the command has ended
	end, err := a.StartSession(stream.Context(), cmd, pid, start.GetArgs())
	if err != nil {
		return err
	}
	defer end()
	go feed(stream, console)
	err = errors.Join(console.drain(out, cmd.Process.Pid), cmd.Wait())
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("exec in %s: %w", start.GetName(), err)
	}
	return out.send(&api.ExecOutput{Output: &api.ExecOutput_ExitCode{ExitCode: exitCode(cmd.ProcessState)}})
}

// exitCode is the exit code of a command, and 128 and the number of the signal for one
// that a signal ended, as shells have it.
func exitCode(s *os.ProcessState) int32 {
	if status, ok := s.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int32(status.Signal())
	}
	return int32(s.ExitCode())
}

// execCommand returns a command, and the process into whose namespaces it goes.
func (srv *Server) execCommand(ctx context.Context, a *engine.App, start *api.ExecStart) (_ *exec.Cmd, pid int, err error) {
	rec, _ := a.Read()
	if rec.Now() != app.Running && rec.Now() != app.Snapshotting {
		return nil, 0, app.Refusef("app %s is %s: exec needs a running app", rec.Name, rec.Now())
	}
	if len(start.GetArgs()) == 0 {
		return nil, 0, fmt.Errorf("%w: no command to run", errdefs.ErrInvalidArgument)
	}
	cwd := start.GetWorkdir()
	if cwd != "" && !path.IsAbs(cwd) {
		return nil, 0, fmt.Errorf("%w: working directory %q is not an absolute path", errdefs.ErrInvalidArgument, cwd)
	}
	p := &specs.Process{Args: start.GetArgs(), Cwd: cwd, Env: append(append([]string{}, rec.Spec.Process.Env...), start.GetEnv()...), User: rec.Spec.Process.User}
	if text := start.GetUser(); text != "" {
		usr, err := program.ParseUser(text)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		p.User = *usr
	}
	cmd, err := a.Box.Command(ctx, rec.Process.PID, p)
	return cmd, rec.Process.PID, err
}

// feed hands on the client's input until it ends; the stream's end ends it too.
func feed(stream grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput], to *console) {
	defer to.closeInput()
	for {
		in, err := stream.Recv()
		if err != nil || in.GetStdinClosed() {
			return
		}
		if size := in.GetResize(); size != nil {
			to.resize(size)
		}
		if _, err := to.in.Write(in.GetStdin()); err != nil {
			return // the command has closed its input
		}
	}
}

// execOutput serialises what the command writes to its two outputs.
type execOutput struct {
	mu     sync.Mutex
	stream grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]
}

func (o *execOutput) send(m *api.ExecOutput) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stream.Send(m)
}

func (o *execOutput) writer(wrap func([]byte) *api.ExecOutput) io.Writer {
	return execWriter{o, wrap}
}

type execWriter struct {
	out  *execOutput
	wrap func([]byte) *api.ExecOutput
}

func (w execWriter) Write(p []byte) (int, error) {
	return len(p), w.out.send(w.wrap(append([]byte{}, p...)))
}

func wrapStdout(b []byte) *api.ExecOutput {
	return &api.ExecOutput{Output: &api.ExecOutput_Stdout{Stdout: b}}
}

func wrapStderr(b []byte) *api.ExecOutput {
	return &api.ExecOutput{Output: &api.ExecOutput_Stderr{Stderr: b}}
}
