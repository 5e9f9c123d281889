package session

import (
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
)

// What a terminal has no room for is left out, and said.
func TestFit(t *testing.T) {
	lines := func(text string) []string { return strings.Split(text, "/") }
	for _, c := range []struct {
		lines         string
		rows, columns int
		want          string
	}{
		{"a/b/c", 3, 80, "a/b/c"},
		{"a/b/c/d/e", 3, 80, "a/b/... and 3 more lines"},
		{"äbcdef/ab", 5, 4, "äbc…/ab"},
	} {
		qt.Check(t, qt.Equals(strings.Join(fit(lines(c.lines), c.rows, c.columns), "/"), c.want))
	}
}
