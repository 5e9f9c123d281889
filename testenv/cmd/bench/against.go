package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// side is one of two commits that are compared.
type side struct {
	tree string // its source
	bin  string // its snapctl and snapctld, and the programs that are measured with
}

// programs of this tree that benchmarks run besides snapctl; both sides are measured
// with the same.
var programs = []string{"testenv/cmd/subject", "testenv/cmd/gauge", "testenv/cmd/hostkeeper", "cmd/snapctl-directory"}

// comparing says what is compared with what, and how often.
type comparing struct {
	commit string
	turns  int // of each side
	passes int // of each turn, whose median counts
}

// against measures this tree and another commit by turns, benchmark by benchmark: each
// turn is a run of this program, with daemons of its own. So what else the machine does
// meanwhile meets both. Only the programs of snapctl are the other commit's, and the
// benchmarks of its packages: the commit may be older than the benchmark.
func against(ctx context.Context, b *rig.Bench, with comparing, out string) (err error) {
	dir, err := os.MkdirTemp("", "snapctl-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tree := filepath.Join(dir, "tree")
	if err := command(ctx, ".", "git", "worktree", "add", "--quiet", "--detach", tree, with.commit); err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, command(clean, ".", "git", "worktree", "remove", "--force", tree))
	}()
	sides := [2]side{{tree: ".", bin: filepath.Join(dir, "ours")}, {tree: tree, bin: filepath.Join(dir, "other")}}
	for _, s := range sides {
		if err := s.build(ctx); err != nil {
			return err
		}
	}
	if b.Small {
		with.turns, with.passes = 1, 1
	}
	c := &report.Comparison{Out: b.Report.Out}
	var errs []error
	for _, name := range names(ctx, b) {
		if c.Has(name) { // measured together with an earlier one
			continue
		}
		for turn := range with.turns {
			order := []int{0, 1}
			if turn%2 == 1 {
				slices.Reverse(order)
			}
			for _, i := range order {
				rows, err := sides[i].measure(ctx, b, name, with.passes, filepath.Join(dir, "rows.json"))
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					err = fmt.Errorf("%s: %s: %w", []string{"this tree", with.commit}[i], name, err)
					fmt.Fprintln(os.Stderr, "bench:", err)
					errs = append(errs, err)
				}
				c.Add(i, rows)
			}
		}
		c.Tell(name)
	}
	c.Table(with.commit)
	return errors.Join(append(errs, c.Write(out))...)
}

// names are those of the benchmarks that were asked for.
func names(ctx context.Context, b *rig.Bench) []string {
	var names []string
	asked := *b
	asked.List = func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	_ = measure(ctx, &asked) // nothing is measured, so nothing fails
	return names
}

// build builds the side's programs.
func (s side) build(ctx context.Context) error {
	bin, err := filepath.Abs(s.bin)
	if err != nil {
		return err
	}
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	args := []string{"build", "-buildvcs=false", "-o", bin + "/"}
	if err := command(ctx, s.tree, "go", append(args, "./cmd/snapctl", "./cmd/snapctld")...); err != nil {
		return err
	}
	for _, p := range programs {
		args = append(args, "./"+p)
	}
	return command(ctx, ".", "go", args...)
}

// measure runs a benchmark with the side's programs.
func (s side) measure(ctx context.Context, b *rig.Bench, name string, passes int, out string) ([]report.Row, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"-only", "^" + regexp.QuoteMeta(name) + "$", "-passes", strconv.Itoa(passes), "-tree", s.tree, "-out", out}
	if b.Small {
		args = append(args, "-once")
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), "SNAPCTL_BIN_DIR="+s.bin)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // it cleans up
	cmd.WaitDelay = 2 * time.Minute
	if err := os.RemoveAll(out); err != nil {
		return nil, err
	}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	data, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	var rows []report.Row
	return rows, json.Unmarshal(data, &rows)
}

// command runs a command whose output matters only if it fails.
func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if name == "go" {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // static, to run in apps with any root directory
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, args[0], err, bytes.TrimSpace(out))
	}
	return nil
}
