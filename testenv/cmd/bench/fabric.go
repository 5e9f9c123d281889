package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
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
	cmd := exec.CommandContext(ctx, "go", "test", "./vem/fabric", "-run", "^$", "-bench", ".", "-benchtime", "1x")
	cmd.Dir, cmd.Stderr = b.Tree, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("benchmark of vem/fabric: %w: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if row, ok := fabricRow(strings.Fields(line)); ok {
			b.Report.Add(row)
		}
	}
	return nil
}

// fabricRow reads a line such as
//
//	BenchmarkThroughput/host-app-2  1  9.1 gbit/s  0.97 ratio
func fabricRow(f []string) (report.Row, bool) {
	if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
		return report.Row{}, false
	}
	metrics := make(map[string]float64)
	for i := 2; i+1 < len(f); i += 2 {
		v, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return report.Row{}, false
		}
		metrics[f[i+1]] = v
	}
	kind, path, _ := strings.Cut(strings.TrimPrefix(f[0], "Benchmark"), "/")
	if i := strings.LastIndexByte(path, '-'); i > 0 { // the number of processors
		if _, err := strconv.Atoi(path[i+1:]); err == nil {
			path = path[:i]
		}
	}
	goals := map[string]struct {
		unit string
		goal float64
	}{"Throughput": {"gbit/s", -0.9}, "RTT": {"rtt-us", 1.1}}
	g, ok := goals[kind]
	if !ok || metrics["ratio"] == 0 {
		return report.Row{}, false
	}
	if path == "control" {
		g.goal = 0 // plain against plain: the noise
	}
	return report.Row{
		Name: "fabric/" + strings.ToLower(kind) + "/" + path, Unit: g.unit, OtherName: "plain veth pair",
		Ours: metrics[g.unit], Other: metrics[g.unit] / metrics["ratio"], Goal: g.goal,
	}, true
}
