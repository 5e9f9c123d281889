package keep

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"
)

// things makes a directory with things of 3 bytes each.
func things(t *testing.T, names ...string) *Dir {
	t.Helper()
	d, err := Open(t.TempDir())
	qt.Assert(t, qt.IsNil(err))
	for _, name := range names {
		qt.Assert(t, qt.IsNil(os.WriteFile(d.Path(name), []byte("abc"), 0o600)))
	}
	return d
}

// there lists what is in the directory.
func (d *Dir) there(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(d.path)
	qt.Assert(t, qt.IsNil(err))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func nothing() (map[string]bool, error) { return nil, nil }

func TestSweep(t *testing.T) {
	d := things(t, "needed", "neither", "pinned")
	qt.Assert(t, qt.IsNil(os.MkdirAll(d.Path("tree/a"), 0o700)))
	qt.Assert(t, qt.IsNil(os.WriteFile(d.Path("tree/a/b"), []byte("abcd"), 0o600)))
	d.Pin("pinned")
	d.Pin("pinned")
	d.Unpin("pinned")
	freed, err := d.Sweep(func() (map[string]bool, error) { return map[string]bool{"needed": true, "missing": true}, nil })
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(freed, 7))
	qt.Assert(t, qt.DeepEquals(d.there(t), []string{"needed", "pinned"}))
	d.Unpin("pinned")
	qt.Assert(t, qt.Equals(d.Pinned(), 0))
	_, err = d.Sweep(nothing)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(d.there(t), 0))
}

func TestSweepOfTheUnknown(t *testing.T) {
	d := things(t, "a")
	_, err := d.Sweep(func() (map[string]bool, error) { return nil, errors.New("can't read") })
	qt.Assert(t, qt.ErrorMatches(err, "sweep .*: can't read"))
	qt.Assert(t, qt.DeepEquals(d.there(t), []string{"a"}))
	_, err = d.Sweep(nothing) // one that failed is in nobody's way
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(d.there(t), 0))
}

// Whoever records a thing and unpins it while the records are read may have come after his record was.
func TestPinnedWhileAsked(t *testing.T) {
	d := things(t, "before", "meanwhile", "never")
	d.Pin("before")
	_, err := d.Sweep(func() (map[string]bool, error) {
		d.Unpin("before")
		d.Pin("meanwhile")
		d.Unpin("meanwhile")
		return nil, nil
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(d.there(t), []string{"before", "meanwhile"}))
	_, err = d.Sweep(nothing) // the next one asks anew
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(d.there(t), 0))
}

// Whoever pins what is being removed looks whether it is there when it is gone.
func TestPinWaitsForRemoval(t *testing.T) {
	d := things(t, "a", "b")
	d.watchPins()
	gone, ok := d.doom("a")
	qt.Assert(t, qt.IsTrue(ok))
	d.Pin("b") // does not wait
	var g sync.WaitGroup
	g.Go(func() {
		d.Pin("a")
		_, err := os.Stat(d.Path("a"))
		qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	})
	qt.Assert(t, qt.IsNil(os.Remove(d.Path("a"))))
	gone()
	g.Wait()
	qt.Assert(t, qt.Equals(d.Pinned(), 2))
	_, ok = d.doom("b")
	qt.Assert(t, qt.IsFalse(ok))
}

// What several pin, look for and make while it is swept again and again is there for each of them.
func TestPinnedThingsStay(t *testing.T) {
	d := things(t)
	stop := make(chan struct{})
	var sweeper, users sync.WaitGroup
	sweeper.Go(func() {
		for {
			_, err := d.Sweep(nothing)
			qt.Check(t, qt.IsNil(err))
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 4 {
		users.Go(func() {
			for range 200 {
				d.Pin("a")
				f, err := os.OpenFile(d.Path("a"), os.O_CREATE, 0o600)
				if qt.Check(t, qt.IsNil(err)) {
					qt.Check(t, qt.IsNil(f.Close()))
				}
				_, err = os.Stat(d.Path("a"))
				qt.Check(t, qt.IsNil(err))
				d.Unpin("a")
			}
		})
	}
	users.Wait()
	close(stop)
	sweeper.Wait()
}
