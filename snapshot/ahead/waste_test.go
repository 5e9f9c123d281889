package ahead_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

// An app writes to most of its memory while that is copied. What it has not written to is right, and not in
// the file of the first copy any more, which is gone. With less it stays.
func TestWastedFile(t *testing.T) {
	testenv.Need(t, testenv.Root)
	leak.Check(t)
	const all = 64 << 8 // the pages of the program
	for _, ends := range []bool{false, true} {
		for step, gone := range map[string]bool{"most": true, "much": false} {
			t.Run(fmt.Sprintf("ends=%v/%s", ends, step), func(t *testing.T) {
				root := t.TempDir()
				pid, ask := startProgram(t, stepsCommand)
				checkLeft(t, t.Context(), root, pid, ends, func(n int) {
					if n == 0 {
						ask(step)
					}
				}, func(left *memmap.Left, store *memory.Store) {
					from := int64(0)
					for _, p := range left.Kept {
						info, err := p.File.File.Stat()
						qt.Assert(t, qt.IsNil(err))
						from = max(from, info.Size()/image.PageSize)
					}
					qt.Check(t, qt.Equals(from < all, gone), qt.Commentf("the largest file that is used has %d pages", from))
					pages := left.Pages.Pages() + memmap.PagesOf(left.Own).Pages()
					qt.Check(t, qt.IsTrue(pages > all-100), qt.Commentf("%d pages are left out", pages))
					if !ends {
						return // nothing is in the store yet
					}
					_, err := store.Sweep(func() (map[memory.ID]bool, error) { return nil, nil })
					qt.Assert(t, qt.IsNil(err))
					names, err := os.ReadDir(store.Dir())
					qt.Assert(t, qt.IsNil(err))
					largest := int64(0)
					for _, n := range names {
						info, err := n.Info()
						qt.Assert(t, qt.IsNil(err))
						largest = max(largest, info.Size()/image.PageSize)
					}
					qt.Check(t, qt.Equals(largest < all, gone), qt.Commentf("the largest file has %d pages", largest))
				})
			})
		}
	}
}
