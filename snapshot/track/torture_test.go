package track_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/track"
)

var (
	seed   = flag.Uint64("seed", 0, "of TestTorture; 0: a new one")
	rounds = flag.Int("rounds", 5, "of TestTorture")
)

// A mirror is a copy of a process's memory, made while it runs.
type mirror struct {
	t      *testing.T
	p      *program
	memory *os.File
	pages  map[uint64][]byte // by their addresses
}

func newMirror(t *testing.T, p *program) *mirror {
	t.Helper()
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.pid), os.O_RDWR, 0)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { f.Close() })
	return &mirror{t, p, f, make(map[uint64][]byte)}
}

// update collects what was written, and copies it.
func (m *mirror) update(tr *track.Tracker) {
	m.t.Helper()
	runs, err := tr.Collect(m.t.Context(), m.p.pid)
	qt.Assert(m.t, qt.IsNil(err))
	m.p.stop()() // what was under way is over
	for _, r := range runs {
		for at := r.Start; at < r.End(); at += pageSize {
			page := make([]byte, pageSize)
			if _, err := m.memory.ReadAt(page, int64(at)); err != nil {
				delete(m.pages, at) // it was unmapped meanwhile
				continue
			}
			m.pages[at] = page
		}
	}
}

// poke writes to some copied pages as a debugger does, also to those that the process may not write to.
func (m *mirror) poke(random *rand.Rand) {
	left := 10
	for at := range m.pages {
		if at < windowsAt || at >= windowsEnd {
			continue
		}
		_, _ = m.memory.WriteAt([]byte{byte(random.Uint32())}, int64(at)) // it may be gone
		if left--; left == 0 {
			return
		}
	}
}

// check compares all clean pages of the process, which is stopped, with the copy.
func (m *mirror) check(tr *track.Tracker) (clean, dirty uint64) {
	m.t.Helper()
	c, d, err := tr.Scan(m.t.Context(), m.p.pid)
	qt.Assert(m.t, qt.IsNil(err))
	page := make([]byte, pageSize)
	for _, r := range c {
		clean += r.Pages
		for at := r.Start; at < r.End(); at += pageSize {
			_, err := m.memory.ReadAt(page, int64(at))
			qt.Assert(m.t, qt.IsNil(err))
			if want := m.pages[at]; want == nil {
				m.t.Fatalf("the page at %#x is clean and was never copied", at)
			} else if !bytes.Equal(page, want) {
				m.t.Fatalf("the page at %#x is clean and was changed", at)
			}
		}
	}
	for _, r := range d {
		dirty += r.Pages
	}
	return clean, dirty
}

// number reads one of 8 bytes in the process's memory.
func (m *mirror) number(at uint64) uint64 {
	m.t.Helper()
	b := make([]byte, 8)
	_, err := m.memory.ReadAt(b, int64(at))
	qt.Assert(m.t, qt.IsNil(err))
	return binary.NativeEndian.Uint64(b)
}

// A program changes its memory in every way, by chance, by many threads. Whenever it is stopped, what
// is clean is as it was copied, page by page.
func TestTorture(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 1))
	p, first := begin(t, "torture", fmt.Sprint(*seed))
	counter := number(t, first)
	var clean, dirty uint64
	for range *rounds {
		m := newMirror(t, p)
		advance := func(most uint64) {
			t.Helper()
			goal := m.number(counter) + random.Uint64N(most)
			await(t, "it goes on", func() bool { return m.number(counter) >= goal })
		}
		tr := start(t, p)
		for range 1 + random.IntN(4) {
			advance(300)
			m.update(tr)
			m.poke(random)
			if random.IntN(2) == 0 { // of a process that nothing was collected from since it ran
				goOn := p.stop()
				m.check(tr)
				goOn()
			}
		}
		advance(300)
		goOn := p.stop()
		c, d := m.check(tr)
		clean, dirty = clean+c, dirty+d
		goOn()
		qt.Assert(t, qt.IsNil(tr.Close()))
	}
	t.Logf("%d operations, %d pages clean and %d dirty", newMirror(t, p).number(counter), clean, dirty)
	qt.Check(t, qt.Not(qt.Equals(clean, 0)))
	qt.Check(t, qt.Not(qt.Equals(dirty, 0)))
}
