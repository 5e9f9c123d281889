package member

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// spawn starts a process that outlives this one. The process gets a session of its own, / as its
// folder, /dev/null as input and the member's log as output. It stays in this process's cgroup:
// under systemd the daemon's unit needs KillMode=process.
//
// If this process dies right after, the next one finds the member by its lock. The number is where
// in the log the process begins to write.
func spawn(ctx context.Context, exe string, c Config) (*process, int64, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, 0, err
	}
	if err := writeJSON(c.configPath(), c); err != nil {
		return nil, 0, err
	}
	if err := trimLog(c.logPath()); err != nil {
		return nil, 0, err
	}
	log, err := os.OpenFile(c.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, err
	}
	// The member must not end with ctx.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), exe, "serve", c.configPath())
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	p, err := openProcess(cmd.Process.Pid) // a child that nobody has reaped: the number is its own
	if err != nil {
		return nil, 0, fmt.Errorf("%w (it was started as process %d)", err, cmd.Process.Pid)
	}
	return p, from, cmd.Process.Release()
}
