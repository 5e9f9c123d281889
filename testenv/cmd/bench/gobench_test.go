package main

import (
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestParseBenchmark(t *testing.T) {
	for line, want := range map[string]measured{
		"BenchmarkChannel/rtt/direct/ipv4-2 \t 1\t 1.18 ratio\t 21.5 us": {"Channel/rtt/direct/ipv4", map[string]float64{"ratio": 1.18, "us": 21.5}},
		"BenchmarkThroughput/app-app 1 9.1 gbit/s":                       {"Throughput/app-app", map[string]float64{"gbit/s": 9.1}},
	} {
		got, ok := parseBenchmark(strings.Fields(line))
		qt.Check(t, qt.IsTrue(ok))
		qt.Check(t, qt.Equals(got.name, want.name))
		qt.Check(t, qt.DeepEquals(got.metrics, want.metrics))
	}
	for _, line := range []string{"", "PASS", "goos: linux", "BenchmarkSwitch", "BenchmarkSwitch-2 1 fast ms"} {
		_, ok := parseBenchmark(strings.Fields(line))
		qt.Check(t, qt.IsFalse(ok), qt.Commentf("%q", line))
	}
}

// Every row has a name of its own, and a benchmark.
func TestChannelRows(t *testing.T) {
	names := make(map[string]bool)
	for bench, row := range channelRows() {
		qt.Check(t, qt.IsFalse(names[row.Name]))
		names[row.Name] = true
		qt.Check(t, qt.IsTrue(strings.HasPrefix(row.Name, "channel/")))
		if path, ok := strings.CutPrefix(bench, "Channel/"); ok {
			qt.Check(t, qt.Equals(row.Name, "channel/"+path))
		}
	}
	qt.Check(t, qt.HasLen(names, 21))
	for _, kind := range []string{"vxlan", "wireguard"} {
		for _, row := range deviceRows(kind) {
			qt.Check(t, qt.IsFalse(names[row.Name]))
			names[row.Name] = true
			qt.Check(t, qt.IsTrue(strings.HasPrefix(row.Name, "channel/")))
		}
	}
	qt.Check(t, qt.HasLen(names, 21+16))
}
