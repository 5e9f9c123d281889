package memmap

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
)

// saved is a dump, after [Share], whose pages images are kept.
type saved struct {
	dir   string
	files map[string]Kept // by the names that the dump has
}

// save dumps processes that were never restored, and shares what the dump before has of them. It
// returns what is stored anew, in pages.
func save(t *testing.T, before *saved, generation, most int, processes ...fakeProcess) (*saved, uint64) {
	t.Helper()
	dir := writeDump(t, uint64(generation), nil, nil, processes...)
	want := readMemory(t, dir, nil)
	var earlier *Earlier
	if before != nil {
		var err error
		earlier, err = OpenEarlier(t.Context(), before.dir, before.files, most)
		qt.Assert(t, qt.IsNil(err))
	}
	shared, err := Share(t.Context(), dir, nil, earlier)
	qt.Assert(t, qt.IsNil(err))
	s := &saved{dir: dir, files: make(map[string]Kept)}
	content := make(map[string][]byte)
	add := func(name string, k Kept) {
		s.files[name] = k
		b, err := os.ReadFile(k.File.Name())
		qt.Assert(t, qt.IsNil(err))
		content[name] = b
	}
	for _, name := range shared.Earlier {
		for _, k := range before.files {
			if k.Name() == name {
				add(name, k)
			}
		}
		qt.Assert(t, qt.IsTrue(content[name] != nil), qt.Commentf("%s", name))
	}
	images, err := filepath.Glob(filepath.Join(dir, "pages-*.img"))
	qt.Assert(t, qt.IsNil(err))
	for i, path := range images {
		f, err := os.Open(path)
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { f.Close() })
		k := Kept{ID: fmt.Sprintf("%d-%d", generation, i), File: f}
		s.files[filepath.Base(path)] = k
		if name := shared.Images[filepath.Base(path)]; name != "" {
			add(name, k)
		}
	}
	sameMemory(t, readMemory(t, dir, content), want)
	return s, uint64(pagesSize(t, dir) / image.PageSize)
}

// What an earlier dump has of a process is not stored again, and what has changed is.
func TestShareEarlier(t *testing.T) {
	const big = 4096
	fill := func(generation uint64, like pageContent, pages ...uint64) pageContent {
		all := maps.Clone(like)
		if all == nil {
			all = make(pageContent)
		}
		for _, p := range pages {
			all[at(p)] = string(fakePage(at(p), 10, generation))
		}
		return all
	}
	every := func(from, to, step uint64) (list []uint64) {
		for p := from; p < to; p += step {
			list = append(list, p)
		}
		return list
	}
	vmas := []*vma.VmaEntry{anon(0, big), anon(big+10, 100, withFlags(image.MapGrowsDown))}
	extents := []image.Extent{stored(0, big), stored(big+10, 100)}
	process := func(c pageContent) fakeProcess {
		return fakeProcess{pid: 10, vmas: vmas, extents: extents, content: c}
	}
	first := fill(1, nil, append(every(0, big, 1), every(big+10, big+110, 1)...)...)
	for name, test := range map[string]struct {
		second fakeProcess
		stored uint64
	}{
		"nothing changed":     {process(first), 100}, // the stack can't be mapped
		"some changed":        {process(fill(2, first, every(1000, 1200, 1)...)), 300},
		"every 100th":         {process(fill(2, first, every(0, big, 100)...)), 100 + 41},
		"every 2nd":           {process(fill(2, first, every(1, big, 2)...)), 100 + big/2},
		"all changed":         {process(fill(2, first, every(0, big, 1)...)), 100 + big},
		"all but a few":       {process(fill(2, first, every(100, big, 1)...)), 100 + big},
		"another process":     {fakeProcess{pid: 11, vmas: vmas, extents: extents, content: first}, 100 + big},
		"at other addresses":  {fakeProcess{pid: 10, vmas: []*vma.VmaEntry{anon(big*2, big)}, extents: []image.Extent{stored(big*2, big)}}, big},
		"more than there was": {fakeProcess{pid: 10, vmas: []*vma.VmaEntry{anon(0, big+200)}, extents: []image.Extent{stored(0, big+200)}, content: first}, 100},
		"less":                {fakeProcess{pid: 10, vmas: []*vma.VmaEntry{anon(0, big)}, extents: []image.Extent{stored(500, 1000)}, content: first}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, stored := save(t, nil, 1, 8, process(first))
			qt.Assert(t, qt.Equals(stored, 100+big))
			_, stored = save(t, s, 2, 8, test.second)
			// Pages between others that changed may be stored as well.
			qt.Check(t, qt.Equals(stored, test.stored))
			_, stored = save(t, s, 2, 0, test.second)
			qt.Check(t, qt.IsTrue(stored >= 1000), qt.Commentf("of no file may anything be used: %d", stored))
		})
	}
}

// A file of which the earlier dump itself uses little is not kept for that by one more dump.
func TestShareEarlierOfLittleUse(t *testing.T) {
	const big = 1000
	for name, test := range map[string]struct {
		changed uint64 // pages of the second dump
		stored  uint64 // of the third one, which is like the second
		files   int    // that the third one uses
	}{
		"more than half": {400, 1, 2},
		"less than half": {600, 400, 1},
	} {
		t.Run(name, func(t *testing.T) {
			content := make(pageContent)
			for page := range uint64(big) {
				content[at(page)] = string(fakePage(at(page), 10, 1))
			}
			process := fakeProcess{pid: 10, vmas: []*vma.VmaEntry{anon(0, big)}, extents: []image.Extent{stored(0, big)}, content: content}
			s, _ := save(t, nil, 1, 8, process)
			for page := range test.changed {
				content[at(page)] = string(fakePage(at(page), 10, 2))
			}
			s, stored := save(t, s, 2, 8, process)
			qt.Check(t, qt.Equals(stored, test.changed))
			s, stored = save(t, s, 3, 8, process)
			qt.Check(t, qt.Equals(stored, test.stored))
			files := 0
			for name := range s.files {
				if strings.HasPrefix(name, "/") {
					files++
				}
			}
			qt.Check(t, qt.Equals(files, test.files))
		})
	}
}

// Over many dumps of a family that was never restored each builds on the one before, which is what
// it is after sharing: on files of many dumps, but not of more than it may.
func TestShareEarlierOverGenerations(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			const most, pages = 3, 2000
			random := rand.New(rand.NewPCG(seed, 7))
			vmas := []*vma.VmaEntry{anon(0, 900), anon(900, 300, withProt(1)), anon(1300, 700)}
			extents := []image.Extent{stored(0, 1200), stored(1300, 700)}
			var processes []fakeProcess
			for _, pid := range []uint32{10, 20, 30} {
				processes = append(processes, fakeProcess{pid: pid, ppid: 10 * min(pid-10, 1), vmas: vmas, extents: extents, content: make(pageContent)})
				for page := range uint64(pages) {
					processes[len(processes)-1].content[at(page)] = string(fakePage(at(page), 10, 0))
				}
			}
			var last *saved
			for generation := range 10 {
				for i := range processes {
					for range 5 { // some ranges, and here and there many
						first := random.Uint64N(pages)
						for page := first; page < min(pages, first+random.Uint64N(100*(1+random.Uint64N(3)))); page++ {
							processes[i].content[at(page)] = string(fakePage(at(page), processes[i].pid, uint64(generation)))
						}
					}
				}
				now, stored := save(t, last, generation, most, processes...)
				if last != nil {
					qt.Check(t, qt.IsTrue(stored < 3*1900*3/4), qt.Commentf("%d", stored))
				}
				last = now
				bases := 0
				for name := range last.files {
					if strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "/pages-") {
						bases++
					}
				}
				qt.Check(t, qt.IsTrue(bases <= most), qt.Commentf("%v", slices.Sorted(maps.Keys(last.files))))
				qt.Check(t, qt.IsTrue(generation == 0 || bases > 0))
			}
		})
	}
}

// An earlier dump that is not what it says is an error, and not memory that is somebody else's.
func TestOpenEarlierRefuses(t *testing.T) {
	vmas := []*vma.VmaEntry{anon(0, 600)}
	s, _ := save(t, nil, 1, 8, fakeProcess{pid: 10, vmas: vmas, extents: []image.Extent{stored(0, 600)}})
	qt.Assert(t, qt.IsNil(os.Truncate(s.files["pages-1.img"].File.Name(), 100*image.PageSize)))
	_, err := OpenEarlier(t.Context(), s.dir, s.files, 8)
	qt.Check(t, qt.ErrorIs(err, image.ErrInconsistent))
	_, err = OpenEarlier(t.Context(), t.TempDir(), nil, 8)
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

// TestFind compares memory as a process has it now with what an earlier dump has.
func TestFind(t *testing.T) {
	const pages = 600
	before, _ := save(t, nil, 1, 8, fakeProcess{pid: 10, vmas: []*vma.VmaEntry{anon(0, pages)}, extents: []image.Extent{stored(0, 300), stored(310, pages-310)}})
	earlier, err := OpenEarlier(t.Context(), before.dir, before.files, 8)
	qt.Assert(t, qt.IsNil(err))
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 4))
		first := random.Uint64N(pages - 100)
		now := make([]byte, 0, pages*image.PageSize)
		same := make(map[uint64]bool)
		is := false
		for page := first; page < min(first+500, pages); page++ {
			if random.IntN(30) == 0 {
				is = random.IntN(2) == 0
			}
			generation := uint64(2)
			if is {
				generation, same[at(page)] = 1, page < 300 || page >= 310
			}
			now = append(now, fakePage(at(page), 10, generation)...)
		}
		found, err := Find(earlier.Places(10), at(first), now)
		qt.Assert(t, qt.IsNil(err))
		got := make(map[uint64]bool)
		for i, p := range found {
			qt.Assert(t, qt.IsTrue(p.Pages >= MinRun && (i == 0 || found[i-1].End() <= p.Start)))
			content := make([]byte, p.Pages*image.PageSize)
			_, err := p.File.File.ReadAt(content, int64(p.Offset*image.PageSize))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsTrue(bytes.Equal(content, now[p.Start-at(first):][:len(content)])))
			for a := p.Start; a < p.End(); a += image.PageSize {
				got[a] = true
			}
		}
		for a := range same { // long enough, and so found
			run := uint64(1)
			for b := a - image.PageSize; same[b]; b -= image.PageSize {
				run++
			}
			for b := a + image.PageSize; same[b]; b += image.PageSize {
				run++
			}
			if same[a] && run >= 2*MinRun { // a probe hits it
				qt.Assert(t, qt.IsTrue(got[a]), qt.Commentf("page %d of a run of %d", (a-at(0))/image.PageSize, run))
			}
		}
	}
	found, err := Find(earlier.Places(11), at(0), make([]byte, image.PageSize))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(found, 0))
}
