package holder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Spawn starts `exe holder --socket SOCKETPATH` as a process that outlives this
// one, and returns when it answers. It does nothing if a holder answers already.
//
// The process gets a session of its own, / as its folder, /dev/null as input and
// logPath, appended to, as output. It stays in this process's cgroup: under
// systemd the daemon's unit needs KillMode=process. If the process dies before it
// answers, the error has the end of its output.
func Spawn(ctx context.Context, exe, socketPath, logPath string) error {
	switch _, err := Dial(ctx, socketPath); {
	case err == nil:
		return nil
	case errors.Is(err, ErrVersion):
		return fmt.Errorf("start holder: %w", err)
	}
	if err := spawn(ctx, exe, socketPath, logPath); err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	if _, err := Dial(ctx, socketPath); err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	return nil
}

func spawn(ctx context.Context, exe, socketPath, logPath string) error {
	log, err := os.OpenFile(logPath, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	ready, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close() //nolint:errcheck // only read from
	// The holder must not end with ctx.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), exe, "holder", "--socket", socketPath)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{report}
	// One processor: it must be small, not fast.
	// A request leaves its buffers behind, and collecting so small a heap more
	// often costs nothing: 4 MB less of it for some hundred apps.
	cmd.Env = append(os.Environ(), readyEnv+"=3", "GOMAXPROCS=1", "GOGC=25")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	if closeErr := report.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		ready.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // closed: the read is over
	})
	defer stop()
	n, err := ready.Read(make([]byte, 1))
	if n == 1 {
		return cmd.Process.Release()
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	// It never answered, so it keeps nothing: end it.
	killErr := cmd.Process.Kill()
	if errors.Is(killErr, os.ErrProcessDone) {
		killErr = nil
	}
	waitErr := cmd.Wait()
	said, logErr := io.ReadAll(io.NewSectionReader(log, before, 4<<10))
	if errors.Is(err, io.EOF) {
		return errors.Join(fmt.Errorf("%w: %s", waitErr, bytes.TrimSpace(said)), logErr)
	}
	return errors.Join(err, killErr, logErr)
}
