package cli

import (
	"testing"

	"github.com/go-quicktest/qt"
)

// Memory is copied only if it is asked for.
func TestCopy(t *testing.T) {
	b := withApp(t)
	for _, args := range [][]string{
		{"snapshot", "cache", "--name", "one"},
		{"restore", "one", "--as", "mapped"},
		{"restore", "one", "--as", "copied", "--copy"},
		{"hibernate", "cache"},
		{"wake", "cache"},
		{"wake", "cache", "--copy"},
	} {
		qt.Assert(t, qt.Equals(b.run(t.Context(), args...), OK), qt.Commentf("%v: %s", args, b.err.String()))
	}
	qt.Assert(t, qt.DeepEquals(b.fake.copied, []string{"one", "cache"}))
}
