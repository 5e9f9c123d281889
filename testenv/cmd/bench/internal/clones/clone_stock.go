package clones

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
	"github.com/snapctl/snapctl/vem/netns"
)

// stockCopies is what copies of a redis cost without snapctl, in ms for each until
// it answers.
type stockCopies struct {
	n                int
	answered, loaded float64
	idle             usage
}

// copies has stock CRIU restore a redis as often as the machine has memory for it,
// and ten times at most, and starts one that loads the same data.
func copies(ctx context.Context, w *rig.World, b *rig.Bench, mib int) (c stockCopies, err error) {
	dir, err := os.MkdirTemp(w.Dir(), "redis-")
	if err != nil {
		return c, err
	}
	s, err := w.StockProgram(ctx, rig.RedisArgs(dir)...)
	if err != nil {
		return c, err
	}
	defer s.End()
	r, err := w.DialRedis(ctx, rig.Loopback)
	if err != nil {
		return c, err
	}
	err = errors.Join(r.Populate(mib), r.Want("SAVE", "+OK"))
	r.Close()
	if err != nil {
		return c, err
	}
	if _, err := s.Dump(ctx, "skip", "--tcp-close"); err != nil {
		return c, err
	}
	s.End()
	if c.loaded, err = loads(ctx, w, rig.RedisArgs(dir), mib, min(b.Passes, 3)); err != nil {
		return c, err
	}
	free, err := available()
	if err != nil {
		return c, err
	}
	// Each has its pages and page tables; half of the machine stays for others.
	c.n = max(1, min(10, int(free/2/(1.3*float64(mib)+16))))
	if b.Small {
		c.n = min(c.n, 2)
	}
	var all []*stockCopy
	defer func() {
		for _, one := range all {
			err = errors.Join(err, one.end())
		}
	}()
	for i := range c.n {
		one, took, err := restoreCopy(ctx, s, i, mib)
		if err != nil {
			return c, err
		}
		all = append(all, one)
		c.answered += rig.MS(took) / float64(c.n)
	}
	if err := settle(ctx); err != nil {
		return c, err
	}
	left, err := available()
	if err != nil {
		return c, err
	}
	c.idle.host = (free - left) / float64(c.n)
	for _, one := range all {
		pid, err := one.pid()
		if err != nil {
			return c, err
		}
		u, err := processUse(pid)
		if err != nil {
			return c, err
		}
		c.idle.private += u.private / float64(c.n)
		c.idle.pss += u.pss / float64(c.n)
	}
	return c, nil
}

// loads starts a redis that has its data in a file, and returns how long it takes
// until it answers with it, in ms.
func loads(ctx context.Context, w *rig.World, args []string, mib, passes int) (float64, error) {
	var took []float64
	for range passes {
		began := time.Now()
		s, err := w.StockProgram(ctx, args...)
		if err != nil {
			return 0, err
		}
		r, err := w.DialRedis(ctx, rig.Loopback)
		if err == nil {
			err = r.Check(mib)
			took = append(took, rig.MS(time.Since(began)))
			r.Close()
		}
		s.End()
		if err != nil {
			return 0, err
		}
	}
	return report.Median(took), nil
}

// stockCopy is one of several processes that CRIU restored from the same images.
type stockCopy struct {
	cmd *exec.Cmd
}

// restoreCopy restores the saved server once more, in namespaces of its own, where its
// process id and its port are free, and returns how long it takes until it answers.
func restoreCopy(ctx context.Context, s *rig.Stock, number, mib int) (*stockCopy, time.Duration, error) {
	cmd := s.World.Command(context.WithoutCancel(ctx), "unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child=KILL",
		"sh", "-c", `ip link set lo up && exec "$0" restore -D "$1" -o "$2" --tcp-close </dev/null >/dev/null 2>&1`,
		testenv.CRIUPath(), s.Dir, fmt.Sprintf("copy-%d.log", number))
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	c := &stockCopy{cmd: cmd}
	r, err := rig.DialRedis(ctx, func() (net.Conn, error) { return c.dial(s.World) })
	if err == nil {
		err = r.Check(mib)
		r.Close()
	}
	if err != nil {
		return nil, 0, errors.Join(err, c.end())
	}
	return c, time.Since(began), nil
}

// dial connects to the copy from its own network namespace, once it has one.
func (c *stockCopy) dial(w *rig.World) (conn net.Conn, err error) {
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", c.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	own, err := netns.Current()
	if err != nil {
		return nil, err
	}
	defer own.Close()
	if ns.Inode() == own.Inode() || ns.Inode() == w.Net().Inode() {
		return nil, errors.New("not there yet")
	}
	err = ns.Do(func() error {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(rig.Loopback, strconv.Itoa(rig.RedisPort)), time.Second)
		return err
	})
	return conn, err
}

// pid is the restored process: the child of the CRIU that unshare has started.
func (c *stockCopy) pid() (int, error) {
	pid := c.cmd.Process.Pid
	for range 2 {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(pid), "children"))
		if err != nil {
			return 0, err
		}
		if pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return 0, fmt.Errorf("find restored process: %w", err)
		}
	}
	return pid, nil
}

// end kills unshare, and with it the process namespace and all in it.
func (c *stockCopy) end() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = c.cmd.Wait() // killed
	return nil
}
