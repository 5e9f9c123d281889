package main

import (
	"context"
	"strings"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// rounds are how often a channel and the underlay take turns: each time is short, and less than
// what else goes on in a machine.
const rounds, roundsOnce = 60, 1

// channels takes over what the benchmarks of vem/channel/redirect measure beside the bare underlay.
func channels(ctx context.Context, b *rig.Bench) error {
	rows := make(map[string]report.Row) // by the name of the benchmark
	var patterns []string
	for bench, row := range channelRows() {
		if b.Wants(row.Name) {
			rows[bench] = row
			patterns = append(patterns, "^Benchmark"+strings.ReplaceAll(bench, "/", "$/^")+"$")
		}
	}
	if len(rows) == 0 {
		return nil
	}
	times := rounds
	if b.Small {
		times = roundsOnce
	}
	list, err := goBenchmarks(ctx, b, "vem/channel/redirect", strings.Join(patterns, "|"), times)
	for _, m := range list {
		row, ok := rows[m.name]
		if ratio := m.metrics["ratio"]; ok && ratio != 0 {
			row.Ours = m.metrics[row.Unit]
			row.Other = row.Ours / ratio
			b.Report.Add(row)
		}
	}
	return err
}

// channelRows yields the rows without values, by the names of their benchmarks.
func channelRows() func(yield func(bench string, row report.Row) bool) {
	kinds := []struct {
		name                 string
		throughput, cpu, rtt float64 // the goals
	}{{"direct", -0.95, 1.1, 1.1}, {"tunnel", -0.88, 1.2, 1.2}}
	return func(yield func(string, report.Row) bool) {
		add := func(path, unit string, goal float64) bool {
			return yield("Channel/"+path, report.Row{Name: "channel/" + path, Unit: unit, OtherName: "bare underlay", Goal: goal})
		}
		for _, kind := range kinds {
			for _, family := range []string{"ipv4", "ipv6"} {
				path := kind.name + "/" + family
				for _, streams := range []string{"/1", "/8"} {
					if !add("throughput/"+path+streams, "gbit/s", kind.throughput) || !add("cpu/"+path+streams, "ns/kB", kind.cpu) {
						return
					}
				}
				if !add("rtt/"+path, "us", kind.rtt) {
					return
				}
			}
		}
		yield("Switch", report.Row{Name: "channel/switch", Unit: "ms", OtherName: "10,000 routes written anew", Goal: 5, GoalOn: "ours"})
	}
}
