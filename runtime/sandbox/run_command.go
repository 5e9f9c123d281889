package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// outputDelay is how long the output of a command that has ended is waited for.
const outputDelay = 100 * time.Millisecond

// RunCommand runs a command beside the app's processes, of which pid is the first, and waits for
// its end. The error of a command that fails has the end of its output; the cause of ctx's end
// is in it, if that has ended the command.
func (s *Sandbox) RunCommand(ctx context.Context, pid int, p *specs.Process) error {
	cmd, err := s.Command(ctx, pid, p)
	if err != nil {
		return err
	}
	var out tail
	// No file of the host's, /dev/null either: what the command leaves running could
	// not be saved.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &bytes.Reader{}, &out, &out
	cmd.WaitDelay = outputDelay
	if err := s.StartCommand(cmd, pid); err != nil {
		return err
	}
	// What it leaves running in the app may have its output open for ever.
	if err := cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail []byte

var _ io.Writer = (*tail)(nil)

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	const most = 1 << 10
	*t = append(*t, p...)
	if n := len(*t); n > most {
		*t = append((*t)[:0], (*t)[n-most:]...)
	}
	return len(p), nil
}
