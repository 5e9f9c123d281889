package main

import (
	"context"
	"strings"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// fabric runs the benchmarks of vem/fabric, which compare it with a plain veth
// pair, slice by slice, and takes over the ratios that they report.
func fabric(ctx context.Context, b *rig.Bench) error {
	if !b.Wants("fabric/") {
		return nil
	}
	list, err := goBenchmarks(ctx, b, "vem/fabric", ".", 1)
	for _, m := range list {
		if row, ok := fabricRow(m); ok {
			b.Report.Add(row)
		}
	}
	return err
}

func fabricRow(m measured) (report.Row, bool) {
	kind, path, _ := strings.Cut(m.name, "/")
	goals := map[string]struct {
		unit string
		goal float64
	}{"Throughput": {"gbit/s", -0.9}, "RTT": {"rtt-us", 1.1}}
	g, ok := goals[kind]
	if !ok || m.metrics["ratio"] == 0 {
		return report.Row{}, false
	}
	if path == "control" {
		g.goal = 0 // plain against plain: the noise
	}
	return report.Row{
		Name: "fabric/" + strings.ToLower(kind) + "/" + path, Unit: g.unit, OtherName: "plain veth pair",
		Ours: m.metrics[g.unit], Other: m.metrics[g.unit] / m.metrics["ratio"], Goal: g.goal,
	}, true
}
