// Package rig is what benchmarks are made of. A [Bench] says what was asked for, and collects the
// rows. A [World] is a scratch host with a daemon, on which servers run as apps, and beside them the
// same servers without snapctl: as a [Stock] process that CRIU saves, or in a container of runc.
// [Gauge] and [Redis] are connections to servers that measure themselves, or are measured.
package rig

import (
	"regexp"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
)

// Bench is what a benchmark works with.
type Bench struct {
	Report *report.Report
	Only   *regexp.Regexp
	Passes int    // of each measurement; the median counts
	Small  bool   // one pass, and without the large sizes
	Tree   string // the source of which the benchmarks of packages are run

	// List is called instead of measuring, with what was asked for; nil to measure.
	List func(name string)
}

// Wants tells whether a row was asked for and is to be measured.
func (b *Bench) Wants(name string) bool {
	wanted := b.Only.MatchString(name)
	if wanted && b.List != nil {
		b.List(name)
		return false
	}
	return wanted
}

// AddOthers adds a row for each that was measured besides the main one.
func (b *Bench) AddOthers(name, unit string, ours float64, others map[string]float64) {
	for _, other := range []struct{ key, name string }{{"iptables", "criu iptables lock"}, {"runc", "runc checkpoint"}} {
		if v, ok := others[other.key]; ok {
			b.Report.Add(report.Row{Name: name + "/" + other.key, Unit: unit, Ours: ours, Other: v, OtherName: other.name})
		}
	}
}

// Sizes are the sizes of memory to measure, in MiB.
func (b *Bench) Sizes() []int {
	if b.Small {
		return []int{16}
	}
	return []int{16, 256, 1024}
}
