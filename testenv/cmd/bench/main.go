// Command bench measures what a user of snapctl feels, and the same with stock
// CRIU and with runc, in one run on one machine: only the ratios mean anything
// elsewhere. Everything runs on scratch hosts.
//
// It prints a table and writes dist/bench.json, a list of rows, see [report.Row].
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/clones"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/failover"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/fleet"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/moving"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/writing"
)

func main() {
	only := flag.String("only", "", "measure only what matches this regular expression")
	once := flag.Bool("once", false, "one pass of each, and of the small sizes: to see that all of it works")
	out := flag.String("out", "", "where the rows are written (default dist/bench.json, with -against dist/against.json)")
	passes := flag.Int("passes", 0, "how often each is measured: the median counts (default 5, with -against 1 in each turn: the first after a start)")
	tree := flag.String("tree", ".", "the source of which the benchmarks of packages are run")
	commit := flag.String("against", "", "measure by turns with the programs of this commit")
	turns := flag.Int("turns", 5, "with -against: how often each commit is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	err := prepare()
	b := &rig.Bench{Report: &report.Report{Out: os.Stdout}, Passes: cmp.Or(*passes, 5), Small: *once, Tree: *tree}
	if err == nil {
		b.Only, err = regexp.Compile(*only)
	}
	switch {
	case err != nil:
	case *commit != "":
		err = against(ctx, b, comparing{*commit, *turns, cmp.Or(*passes, 1)}, cmp.Or(*out, "dist/against.json"))
	default:
		err = run(ctx, b, cmp.Or(*out, "dist/bench.json"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

// benchmark is one family of measurements.
type benchmark struct {
	name string // of the family; its rows are called name/...
	run  func(ctx context.Context, b *rig.Bench) error
}

func prepare() error {
	if os.Geteuid() != 0 {
		return errors.New("namespaces and CRIU need root: try sudo make bench")
	}
	// What this process inherited must not reach the servers: CRIU would have
	// to save it.
	return unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// run measures what was asked for and tells it.
func run(ctx context.Context, b *rig.Bench, out string) error {
	if b.Small {
		b.Passes = 1
	}
	err := measure(ctx, b)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	b.Report.Table()
	if werr := b.Report.Write(out); werr != nil {
		return werr
	}
	if err != nil {
		return err
	}
	if missed := b.Report.Missed(); len(missed) > 0 && !b.Small {
		fmt.Fprintln(b.Report.Out, "missed goals:", strings.Join(missed, ", "))
	}
	return nil
}

// measure runs all benchmarks, and goes on if one fails.
func measure(ctx context.Context, b *rig.Bench) error {
	var errs []error
	for _, bm := range []benchmark{
		{"freeze", freeze},
		{"freeze/memory", freezeMemory},
		{"freeze/many", freezeMany},
		{"freeze/hibernate", freezeHibernate},
		{"freeze/writing", writing.Measure},
		{"freeze/asked", asked},
		{"wake", wake},
		{"wake/new", wakeNew},
		{"restore", restores},
		{"connection", connection},
		{"delta", delta},
		{"steady", steady},
		{"guard", guard},
		{"clone", clones.Many},
		{"pool", clones.Pool},
		{"hold/stall", stall},
		{"hold/apps", manyApps},
		{"fabric", fabric},
		{"channel", channels},
		{"channel/first-packet", firstPacket},
		{"channel/failover", failover.Measure},
		{"move", moving.Measure},
		{"directory", fleet.Measure},
	} {
		if err := bm.run(ctx, b); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", bm.name, err)
			errs = append(errs, fmt.Errorf("%s: %w", bm.name, err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}
