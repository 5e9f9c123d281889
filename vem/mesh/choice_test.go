package mesh

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

// What was chosen outlives the daemon, and what can't be written leaves nothing behind.
func TestChoice(t *testing.T) {
	c := Choice(filepath.Join(t.TempDir(), "channel"))
	for _, name := range []string{"", "vxlan", "auto", "pigeon"} {
		if name != "" {
			qt.Assert(t, qt.IsNil(c.Write(name)))
		}
		got, err := c.Read()
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(got == name, name != ""))
	}
	_, err := os.Stat(string(c) + ".new")
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist))
	missing := Choice(filepath.Join(string(c), "channel")) // no folder
	qt.Check(t, qt.ErrorMatches(missing.Write("auto"), "(?s)write which channels this host is to have: .*"))
	_, err = missing.Read()
	qt.Check(t, qt.ErrorMatches(err, "read which channels this host is to have: .*"))
}
