package inject

import (
	"context"
	"time"

	"github.com/snapctl/snapctl/snapshot/freezer"
)

// patience bounds each wait for something that takes microseconds if nothing is wrong.
const patience = 10 * time.Second

// freeze freezes or thaws the cgroup, if there is one. Threads that ptrace has stopped count as frozen
// (kernel/signal.c, ptrace_stop).
func (s *session) freeze(frozen bool) error {
	if s.cgroup == "" {
		return nil
	}
	c := freezer.Cgroup(s.cgroup)
	if !frozen {
		return c.Thaw()
	}
	if err := c.Begin(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience) //nolint:forbidigo // a process of its own
	defer cancel()
	return c.Freeze(ctx)
}
