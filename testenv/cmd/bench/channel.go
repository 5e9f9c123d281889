package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// rounds is how often a channel and the underlay take turns: each time is short, and less than
// what else goes on in a machine.
func rounds(b *rig.Bench) int {
	if b.Small {
		return 1
	}
	return 60
}

// channels takes over what the benchmarks of vem/channel measure: those of BPF programs beside the bare
// underlay, and those of the kernel's devices beside the same device set up by hand, too.
func channels(ctx context.Context, b *rig.Bench) error {
	if err := channelPrograms(ctx, b); err != nil {
		return err
	}
	for _, kind := range []string{"vxlan", "wireguard"} {
		if err := channelDevices(ctx, b, kind); err != nil {
			return err
		}
	}
	return nil
}

func channelPrograms(ctx context.Context, b *rig.Bench) error {
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
	list, err := goBenchmarks(ctx, b, "vem/channel/redirect", strings.Join(patterns, "|"), rounds(b))
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

// deviceRows are the rows of a kind of channel that is a device of the kernel, by the name of the
// benchmark and the metric that has the ratio.
func deviceRows(kind string) map[[2]string]report.Row {
	rows := make(map[[2]string]report.Row)
	for _, family := range []string{"ipv4", "ipv6"} {
		at := kind + "/" + family
		for metric, row := range map[string]report.Row{
			"gbit/s-by-hand":     {Name: "throughput/" + at + "/by-hand", Unit: "gbit/s", OtherName: "the same device by hand", Goal: -0.97},
			"gbit/s-by-underlay": {Name: "throughput/" + at, Unit: "gbit/s", OtherName: "bare underlay"},
			"us-by-hand":         {Name: "rtt/" + at + "/by-hand", Unit: "us", OtherName: "the same device by hand", Goal: 1 / 0.97},
			"us-by-underlay":     {Name: "rtt/" + at, Unit: "us", OtherName: "bare underlay"},
		} {
			row.Name = "channel/" + row.Name
			rows[[2]string{"Channel/" + family, metric}] = row
		}
	}
	return rows
}

func channelDevices(ctx context.Context, b *rig.Bench, kind string) error {
	rows := deviceRows(kind)
	maps.DeleteFunc(rows, func(_ [2]string, row report.Row) bool { return !b.Wants(row.Name) })
	if len(rows) == 0 {
		return nil
	}
	list, err := goBenchmarks(ctx, b, "vem/channel/"+kind, "^BenchmarkChannel$", rounds(b))
	for _, m := range list {
		for _, metric := range slices.Sorted(maps.Keys(m.metrics)) {
			if row, ok := rows[[2]string{m.name, metric}]; ok && m.metrics[metric] != 0 {
				row.Ours = m.metrics[row.Unit]
				row.Other = row.Ours / m.metrics[metric]
				b.Report.Add(row)
			}
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
