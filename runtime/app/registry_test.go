package app

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
)

// running is what a daemon could have of an app.
type running struct {
	*App
	pid int
}

func entry(name string, status Status) *running {
	return &running{App: New("", "", Record{Identity: Identity{Name: name}, State: State{Status: status}})}
}

func names(r *Registry[*running]) []string {
	var all []string
	for _, e := range r.List() {
		all = append(all, e.Name())
	}
	return all
}

func TestReserve(t *testing.T) {
	var r Registry[*running]
	free, err := r.Reserve("one", "two")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(r.Taken("two")))
	_, err = r.Reserve("three", "two")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.ErrorMatches(err, "app two: already exists: an app of this name is being made"))
	qt.Check(t, qt.IsFalse(r.Taken("three"))) // all or none
	_, err = r.Get("one")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))

	one := entry("one", Creating)
	r.Add(one)
	free()
	qt.Check(t, qt.IsTrue(r.Taken("one")))
	qt.Check(t, qt.IsFalse(r.Taken("two")))
	got, err := r.Get("one")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got, one))
	_, err = r.Reserve("one")
	qt.Check(t, qt.ErrorMatches(err, "app one: already exists"))
	_, err = r.Get("../one")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
}

func TestRename(t *testing.T) {
	var r Registry[*running]
	a := entry("_pool-1", Pooled)
	r.Add(a)
	r.Add(entry("b", Running))
	r.Rename(a, "clone", func(rec *Record) { rec.Number = 7 })
	qt.Check(t, qt.DeepEquals(names(&r), []string{"b", "clone"}))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Number, 7))
	qt.Check(t, qt.IsFalse(r.Taken("_pool-1")))
	qt.Check(t, qt.IsTrue(r.Has(a)))
}

func TestRemove(t *testing.T) {
	var r Registry[*running]
	first, second := entry("a", Running), entry("a", Creating)
	r.Add(first)
	r.Remove(first)
	qt.Check(t, qt.IsFalse(r.Has(first)))
	qt.Check(t, qt.IsTrue(first.Gone()))
	qt.Check(t, qt.IsFalse(r.Taken("a")))
	r.Add(second)
	r.Remove(first) // once more: the name is another app's
	qt.Check(t, qt.IsFalse(r.Has(first)))
	got, err := r.Get("a")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got, second))
	qt.Check(t, qt.HasLen(r.List(), 1))
	qt.Check(t, qt.IsFalse(second.Gone()))
}

// Of many that want one name at the same time one gets it, and it is one's all the time.
func TestOneGetsTheName(t *testing.T) {
	var r Registry[*running]
	var g sync.WaitGroup
	won := make(chan *running, 50)
	for i := range 50 {
		g.Go(func() {
			free, err := r.Reserve("a", fmt.Sprintf("b%d", i))
			if err != nil {
				return
			}
			defer free()
			e := entry("a", Creating)
			e.pid = i
			r.Add(e)
			won <- e
		})
	}
	g.Wait()
	close(won)
	got, err := r.Get("a")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(<-won, got))
	_, more := <-won
	qt.Check(t, qt.IsFalse(more))
	qt.Check(t, qt.IsFalse(r.Taken(fmt.Sprintf("b%d", (got.pid+1)%50))))
}

func TestNameOfAnApp(t *testing.T) {
	var r Registry[*running]
	qt.Check(t, qt.Equals(r.ChooseName("redis_server.sh"), "redis-server-sh"))
	qt.Check(t, qt.Equals(r.ChooseName("___"), "app"))
	qt.Check(t, qt.Equals(len(r.ChooseName(strings.Repeat("x", 99))), 40))
	free, err := r.Reserve("redis", "redis-2")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(r.ChooseName("redis"), "redis-3"))
	free()
	qt.Check(t, qt.Equals(r.ChooseName("redis"), "redis"))
}
