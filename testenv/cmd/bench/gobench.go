package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
	"github.com/snapctl/snapctl/testenv/internal/mount"
)

// measured is what a benchmark of a package has reported: "BenchmarkRTT/app-app-2  1  9.1 rtt-us
// 1.01 ratio" is RTT/app-app with two metrics.
type measured struct {
	name    string
	metrics map[string]float64 // by unit
}

// goBenchmarks runs those benchmarks of a package that match a pattern, so often. They are those of
// the commit that is measured. If ctx ends nothing is left of them: the scratch hosts of a process
// that dies go by themselves.
func goBenchmarks(ctx context.Context, b *rig.Bench, pkg, pattern string, times int) (_ []measured, err error) {
	dir, err := os.MkdirTemp("", "snapctl-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, removeMounted(dir)) }()
	program := filepath.Join(dir, "benchmarks")
	if err := command(ctx, b.Tree, "go", "test", "-c", "-o", program, "./"+pkg); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.bench", pattern, "-test.benchtime", fmt.Sprint(times, "x"))
	cmd.Dir = filepath.Join(b.Tree, pkg)
	cmd.Env, cmd.Stderr = append(os.Environ(), "TMPDIR="+dir), os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = time.Minute
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("benchmark of %s: %w: %s", pkg, err, out)
	}
	var list []measured
	for line := range strings.Lines(string(out)) {
		if m, ok := parseBenchmark(strings.Fields(line)); ok {
			list = append(list, m)
		}
	}
	return list, nil
}

// removeMounted removes a folder, and what is mounted below it.
func removeMounted(dir string) error {
	mounts, err := mount.List("self")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, dir+"/") {
			if err := unix.Unmount(m.Point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("unmount %s: %w", m.Point, err)
			}
		}
	}
	return os.RemoveAll(dir)
}

// parseBenchmark reads the words of a line of output.
func parseBenchmark(words []string) (measured, bool) {
	if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
		return measured{}, false
	}
	m := measured{name: strings.TrimPrefix(words[0], "Benchmark"), metrics: make(map[string]float64)}
	if i := strings.LastIndexByte(m.name, '-'); i > 0 { // the number of processors
		if _, err := strconv.Atoi(m.name[i+1:]); err == nil {
			m.name = m.name[:i]
		}
	}
	for i := 2; i+1 < len(words); i += 2 {
		v, err := strconv.ParseFloat(words[i], 64)
		if err != nil {
			return measured{}, false
		}
		m.metrics[words[i+1]] = v
	}
	return m, true
}
