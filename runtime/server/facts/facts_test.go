package facts

import (
	"testing"

	"github.com/go-quicktest/qt"
)

func TestMemory(t *testing.T) {
	f, err := Facts{}.ShowFacts(t.Context(), nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(f.GetMemoryBytes() > f.GetAvailableMemoryBytes() && f.GetAvailableMemoryBytes() > 0))

	m, err := parse([]byte("MemTotal:       8059808 kB\nMemFree:         100 kB\nMemAvailable:   10 kB\n"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(m, map[string]int64{"MemTotal": 8059808 << 10, "MemAvailable": 10 << 10}))
	for _, bad := range []string{"", "MemTotal: 1 kB", "MemTotal: x kB\nMemAvailable: 1 kB", "MemTotal: 1 kB\nMemAvailable: -1 kB"} {
		_, err := parse([]byte(bad))
		qt.Check(t, qt.IsNotNil(err), qt.Commentf("%q", bad))
	}
}

func FuzzMemory(f *testing.F) {
	f.Add([]byte("MemTotal: 1 kB\nMemAvailable: 1 kB"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parse(b); err == nil && (m["MemTotal"] < 0 || m["MemAvailable"] < 0) {
			t.Errorf("%v", m)
		}
	})
}
