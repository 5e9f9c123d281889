// Command bench measures what a user of snapctl feels, and the same with stock
// CRIU and with runc, in one run on one machine: only the ratios mean anything
// elsewhere. Everything runs on scratch hosts.
//
// It prints a table and writes dist/bench.json, a list of rows, see [Row].
package main

import (
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
)

func main() {
	only := flag.String("only", "", "measure only what matches this regular expression")
	once := flag.Bool("once", false, "one pass of each, and of the small sizes: to see that all of it works")
	out := flag.String("out", "dist/bench.json", "where the rows are written")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *out, *once); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

// benchmark is one family of measurements.
type benchmark struct {
	name string // of the family; its rows are called name/...
	run  func(ctx context.Context, b *bench) error
}

// bench is what a benchmark works with.
type bench struct {
	report *report
	only   *regexp.Regexp
	passes int  // of each measurement; the median counts
	small  bool // leave out the large sizes
}

// wants tells whether a row was asked for.
func (b *bench) wants(name string) bool { return b.only.MatchString(name) }

func run(ctx context.Context, only, out string, once bool) error {
	if os.Geteuid() != 0 {
		return errors.New("namespaces and CRIU need root: try sudo make bench")
	}
	// What this process inherited must not reach the servers: CRIU would have
	// to save it.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	re, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	b := &bench{report: &report{out: os.Stdout}, only: re, passes: 5, small: once}
	if once {
		b.passes = 1
	}
	var errs []error
	for _, bm := range []benchmark{
		{"freeze", freeze},
		{"freeze/memory", freezeMemory},
		{"freeze/hibernate", freezeHibernate},
		{"wake", wake},
		{"wake/new", wakeNew},
		{"restore", restores},
		{"delta", delta},
		{"steady", steady},
		{"guard", guard},
		{"clone", clones},
		{"pool", pool},
		{"hold/stall", stall},
		{"hold/apps", manyApps},
		{"fabric", fabric},
	} {
		if err := bm.run(ctx, b); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", bm.name, err)
			errs = append(errs, fmt.Errorf("%s: %w", bm.name, err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	b.report.table()
	if err := b.report.write(out); err != nil {
		return err
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if missed := b.report.missed(); len(missed) > 0 && !once {
		fmt.Fprintln(b.report.out, "missed goals:", strings.Join(missed, ", "))
	}
	return nil
}
