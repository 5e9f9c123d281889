package compat

import (
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot"
)

func TestDifferences(t *testing.T) {
	here := Host{snapshot.Origin{Kernel: "6.12.5-amd64", Arch: "amd64", CRIUVersion: 40200}, []string{"avx", "sse4_2"}}
	for name, test := range map[string]struct {
		origin   snapshot.Origin
		features []string
		want     []string // of each note
	}{
		"the same":      {here.Origin, here.Features, nil},
		"an older host": {snapshot.Origin{Kernel: "6.1.0", Arch: "amd64", CRIUVersion: 40101}, nil, nil},
		"newer":         {snapshot.Origin{Kernel: "6.18.1", Arch: "amd64", CRIUVersion: 40201}, nil, []string{"saved on Linux 6.18.1", "saved by CRIU 4.2.1, and this host has 4.2.0"}},
		"unknown":       {snapshot.Origin{Kernel: "strange", Arch: "amd64"}, nil, nil},
		"another processor": {snapshot.Origin{Arch: "amd64"}, []string{"avx512f", "avx", "vmx", strings.Repeat("avx", 100)}, []string{
			"the processor of this host lacks what the other host's has: avx512f;",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			there := Host{test.origin, test.features}
			qt.Check(t, qt.Equals(here.Refusal(there), ""))
			got := here.Notes(there)
			qt.Assert(t, qt.HasLen(got, len(test.want)), qt.Commentf("%q", got))
			for i, want := range test.want {
				qt.Check(t, qt.StringContains(got[i], want))
			}
		})
	}
}

func TestRefusal(t *testing.T) {
	here := Host{Origin: snapshot.Origin{Arch: "amd64"}}
	qt.Check(t, qt.StringContains(here.Refusal(Host{Origin: snapshot.Origin{Arch: "arm64"}}), "arm64"))
}

// This host's own processor has no feature that it lacks.
func TestFeatures(t *testing.T) {
	own := features()
	qt.Check(t, qt.IsTrue(len(own) > 0))
	qt.Check(t, qt.HasLen(lacking(own, own), 0))
	qt.Check(t, qt.HasLen(lacking(own, nil), len(own)))
}
