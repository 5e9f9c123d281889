package sandbox

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Command returns a command that runs in the app's namespaces, next to its
// processes, as p says. The caller starts it, and puts it into the cgroup.
//
// Entering a time namespace needs a process with a single thread (EUSERS
// otherwise, setns(2)), which no Go program is: util-linux's nsenter does it.
func (s *Sandbox) Command(ctx context.Context, pid int, p *specs.Process) (*exec.Cmd, error) {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, fmt.Errorf("find nsenter (package util-linux): %w", err)
	}
	args := []string{
		"--target", strconv.Itoa(pid),
		"--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--time", "--root", "--wd",
		"--setuid", strconv.Itoa(int(p.User.UID)), "--setgid", strconv.Itoa(int(p.User.GID)), "--",
	}
	cmd := exec.CommandContext(ctx, nsenter, append(args, p.Args...)...)
	cmd.Env = p.Env
	return cmd, nil
}
