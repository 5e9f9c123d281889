package limit

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

func TestTheOldestGivesWay(t *testing.T) {
	c := NewConns(2, 4)
	var ended []string
	add := func(key, name string) func() {
		remove, _ := c.Add(key, func() { ended = append(ended, name) })
		return remove
	}
	add("a", "a1")
	removeA2 := add("a", "a2")
	add("b", "b1")
	qt.Check(t, qt.HasLen(ended, 0))
	add("a", "a3") // its own oldest
	qt.Check(t, qt.DeepEquals(ended, []string{"a1"}))
	add("c", "c1")
	add("d", "d1") // the oldest of all
	qt.Check(t, qt.DeepEquals(ended, []string{"a1", "a2"}))
	removeA2() // twice is once
	removeA2()
	qt.Check(t, qt.Equals(c.Len(), 4))
	_, dropped := c.Add("e", func() {})
	qt.Check(t, qt.IsTrue(dropped))
	c.End("a")
	c.End("nobody")
	qt.Check(t, qt.IsTrue(slices.Contains(ended, "a3")))
	qt.Check(t, qt.Equals(c.Len(), 3))
}

func TestBudget(t *testing.T) {
	c := NewCalls(Budget{Calls: 2, Streams: 1, PerSecond: 10, Burst: 5})
	now := time.Unix(1000, 0)
	begin := func(peer string, k Kind) (func(), error) { return c.Begin(peer, k, now) }
	done1, err := begin("a", Call)
	qt.Assert(t, qt.IsNil(err))
	_, err = begin("a", Call)
	qt.Assert(t, qt.IsNil(err))
	_, err = begin("a", Call)
	var busy *BusyError
	qt.Assert(t, qt.ErrorAs(err, &busy))
	qt.Check(t, qt.Equals(busy.Why, "2 calls are under way, which is all that one host may have"))
	_, err = begin("a", Stream)
	qt.Check(t, qt.IsNil(err))
	_, err = begin("a", Stream)
	qt.Check(t, qt.IsTrue(errors.As(err, &busy)))
	_, err = begin("b", Call) // another host has a budget of its own
	qt.Check(t, qt.IsNil(err))
	done1()
	done1() // twice is once
	_, err = begin("a", Call)
	qt.Check(t, qt.IsNil(err))
	_, err = begin("a", Call)
	qt.Check(t, qt.IsNotNil(err))
}

func TestRate(t *testing.T) {
	c := NewCalls(Budget{Calls: 100, PerSecond: 10, Burst: 3})
	now := time.Unix(1000, 0)
	for range 3 {
		_, err := c.Begin("a", Call, now)
		qt.Assert(t, qt.IsNil(err))
	}
	_, err := c.Begin("a", Call, now)
	var busy *BusyError
	qt.Assert(t, qt.ErrorAs(err, &busy))
	qt.Check(t, qt.Equals(busy.RetryAfter, 100*time.Millisecond))
	_, err = c.Begin("a", Call, now.Add(busy.RetryAfter))
	qt.Check(t, qt.IsNil(err))
	c.Forget("a")
	_, err = c.Begin("a", Call, now)
	qt.Check(t, qt.IsNil(err))
}
