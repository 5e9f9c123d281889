package leak

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

// A namespace that was mounted on a file when it was found, and is gone when it is looked at, is no leak.
func TestNamespaceThatHasGone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "default")
	qt.Assert(t, qt.IsNil(os.WriteFile(file, nil, 0o600)))
	s := make(State)
	qt.Check(t, qt.IsNil(s.takeNet(nil, 4026532000, file)))
	qt.Check(t, qt.IsNil(s.takeNet(nil, 4026532000, file+" that was removed, too")))
	qt.Check(t, qt.HasLen(s, 0))
}
