package move

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestLastLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	b, err := lastLog(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(b, 0))
	qt.Assert(t, qt.IsNil(beginLog(path, []byte("one\ntwo, and no end"))))
	b, err = lastLog(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(b), "one\ntwo, and no end"))
	line := []byte("a line of a log that is too long\n")
	qt.Assert(t, qt.IsNil(os.WriteFile(path, bytes.Repeat(line, 20_000), 0o600)))
	b, err = lastLog(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(len(b) <= mostLog && len(b) > mostLog-len(line)))
	qt.Check(t, qt.IsTrue(bytes.HasPrefix(b, line) && bytes.HasSuffix(b, line)))
}
