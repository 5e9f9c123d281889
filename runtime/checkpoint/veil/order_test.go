package veil

import (
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

// Entries are listed by their numbers, in whatever order they are wanted. Where the file system has
// another mind, as ext4, which sorts by hashes, that is an error, and nothing is left.
func TestLinkInOrder(t *testing.T) {
	testenv.Need(t, testenv.Root)
	numbers := []int{100, 3, 20, 1000, 0, 7, 64, 2}
	var want []string
	for _, n := range slices.Sorted(slices.Values(numbers)) {
		want = append(want, strconv.Itoa(n))
	}
	dir := t.TempDir()
	qt.Assert(t, qt.IsNil(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m")))
	defer func() { qt.Check(t, qt.IsNil(unix.Unmount(dir, 0))) }()
	qt.Assert(t, qt.IsNil(link(dir, "/real", numbers)))
	listed, err := list(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(listed, want))
	to, err := os.Readlink(dir + "/1000")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(to, "/real/1000"))

	disk := t.TempDir()
	var many []int
	for n := range 300 {
		many = append(many, n)
	}
	var st unix.Statfs_t
	qt.Assert(t, qt.IsNil(unix.Statfs(disk, &st)))
	if st.Type == unix.TMPFS_MAGIC {
		return
	}
	qt.Check(t, qt.ErrorMatches(link(disk, "/real", many), ".*has to be a tmpfs"))
	listed, err = list(disk)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(listed, 0))
}
