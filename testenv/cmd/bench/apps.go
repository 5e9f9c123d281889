package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// manyApps measures what held apps cost a host.
func manyApps(ctx context.Context, b *bench) error {
	n := 200
	if b.small {
		n = 10
	}
	name := fmt.Sprintf("hold/apps=%d", n)
	if !b.wants(name) {
		return nil
	}
	return withWorld(ctx, func(w *world) error {
		before, err := w.memory()
		if err != nil {
			return err
		}
		for i := range n {
			app, at := fmt.Sprintf("app%d", i), fmt.Sprintf("10.77.1.%d", i+1)
			if err := w.subject(ctx, app, at, 0); err != nil {
				return err
			}
			conns, err := w.crowd(ctx, at, 1)
			if err != nil {
				return err
			}
			defer closeAll(conns)
			if _, err := w.api.Hibernate(ctx, &api.HibernateRequest{Name: app}, nil); err != nil {
				return err
			}
		}
		after, err := w.memory()
		if err != nil {
			return err
		}
		b.report.add(Row{Name: name + "/memory", Unit: "KiB an app", Ours: float64(after-before) / float64(n), OtherName: "-"})
		charged, err := w.charged(ctx)
		if err != nil {
			return err
		}
		b.report.add(Row{Name: name + "/cgroup", Unit: "KiB an app", Ours: float64(charged) / float64(n), OtherName: "-"})
		if err := w.KillDaemon(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		began := time.Now()
		if err := w.start(ctx); err != nil {
			return err
		}
		b.report.add(Row{Name: name + "/daemon-start", Unit: "ms", Ours: ms(time.Since(began)), OtherName: "-"})
		apps, err := w.api.List(ctx)
		if err != nil {
			return err
		}
		for _, a := range apps {
			if a.GetStatus() != api.Status_STATUS_HELD {
				return fmt.Errorf("%s is %s after the restart", a.GetName(), a.GetStatus())
			}
			if err := w.remove(ctx, a.GetName()); err != nil {
				return err
			}
		}
		return nil
	})
}

// charged is what all apps' own cgroups are charged for, in KiB: the tmpfs at
// /dev, the kernel's part (sockets and what the network namespace has), and
// page cache, which goes when memory is short. It is 0 on a host that does not
// say.
func (w *world) charged(ctx context.Context) (int, error) {
	apps, err := w.api.List(ctx)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, a := range apps {
		total += int(a.GetMemoryBytes() >> 10)
	}
	return total, nil
}

// memory is what the host's daemon and holder use, in KiB: their proportional
// share of every page. The kernel's part (sockets, namespaces) is not in it.
func (w *world) memory() (int, error) {
	pids, err := w.Pids()
	if err != nil {
		return 0, err
	}
	total := 0
	for _, pid := range pids {
		n, err := pss(pid)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func pss(pid int) (int, error) {
	m, err := rollup(pid)
	return m["Pss"], err
}

// rollup is what the kernel says of all memory of a process, in KiB, by the names
// of proc_pid_smaps(5).
func rollup(pid int) (map[string]int, error) {
	return sizes(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
}

// sizes reads a file of lines such as "MemAvailable:  123 kB".
func sizes(path string) (map[string]int, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := make(map[string]int)
	in := bufio.NewScanner(f)
	for in.Scan() {
		name, value, _ := strings.Cut(in.Text(), ":")
		if fields := strings.Fields(value); len(fields) == 2 && fields[1] == "kB" {
			if m[name], err = strconv.Atoi(fields[0]); err != nil {
				return nil, fmt.Errorf("read %s: %w", path, err)
			}
		}
	}
	return m, in.Err()
}
