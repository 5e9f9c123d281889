// Package journaltest has what tests of records share.
package journaltest

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
)

// FlipAll flips each bit of a file and reads it.
func FlipAll(t *testing.T, path string, read func() (any, error)) {
	t.Helper()
	whole, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	first, err := read()
	qt.Assert(t, qt.IsNil(err))
	want, refused := encoded(t, first), 0
	for bit := range 8 * len(whole) {
		b := slices.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		qt.Assert(t, qt.IsNil(os.WriteFile(path, b, 0o600)))
		got, err := read()
		if err != nil {
			refused++
			continue
		}
		qt.Assert(t, qt.Equals(encoded(t, got), want), qt.Commentf("bit %d of byte %d", bit%8, bit/8))
	}
	qt.Assert(t, qt.IsTrue(refused > 7*len(whole)/2), qt.Commentf("%d of %d", refused, 8*len(whole)))
	// A record of an older snapctl has no digest.
	_, rest, ok := bytes.Cut(whole, []byte("\",\n"))
	qt.Assert(t, qt.IsTrue(ok && bytes.Contains(whole, []byte(`"sha256"`))))
	text := append([]byte("{\n"), rest...)
	qt.Assert(t, qt.IsNil(os.WriteFile(path, text, 0o600)))
	got, err := read()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(encoded(t, got), want))
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	qt.Assert(t, qt.IsNil(err))
	return string(b)
}
