package tree

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

func TestCopyOthers(t *testing.T) {
	testenv.Need(t, testenv.Root)
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	qt.Assert(t, qt.IsNil(CopyExcept(t.Context(), filepath.Join(from, "missing"), to, nil)))
	l, err := net.Listen("unix", filepath.Join(from, "log"))
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(l.Close())) }()
	qt.Assert(t, qt.IsNil(errors.Join(
		os.WriteFile(filepath.Join(from, "null"), nil, 0o600),
		os.WriteFile(filepath.Join(from, "state"), []byte("kept"), 0o640),
		os.Link(filepath.Join(from, "state"), filepath.Join(from, "again")),
		os.Mkdir(filepath.Join(from, "dir"), 0o750),
		os.Symlink("../state", filepath.Join(from, "dir/link")),
		unix.Mkfifo(filepath.Join(from, "dir/pipe"), 0o622),
	)))
	qt.Assert(t, qt.IsNil(CopyExcept(t.Context(), from, to, []string{"null", "shm"})))
	entries, err := List(to)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(entries, []string{"again", "dir", "dir/link", "dir/pipe", "state"}))
	var one, two unix.Stat_t
	qt.Assert(t, qt.IsNil(errors.Join(unix.Lstat(filepath.Join(to, "state"), &one), unix.Lstat(filepath.Join(to, "again"), &two))))
	qt.Assert(t, qt.Equals(one.Ino, two.Ino))
	qt.Assert(t, qt.Equals(one.Mode, unix.S_IFREG|0o640))
	b, err := os.ReadFile(filepath.Join(to, "state"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b), "kept"))
}
