package directorytest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

var txnTests = []test{
	{"commit", testCommit, nil},
	{"conflict", testConflict, nil},
	{"condition-only", testConditionOnly, nil},
	{"delete-nothing", testDeleteNothing, nil},
	{"largest", testLargest, nil},
	{"refused", testRefused, nil},
	{"compare-and-swap", testCompareAndSwap, nil},
	{"claim-once", testClaimOnce, nil},
}

// All of a transaction has one revision.
func testCommit(h *harness) {
	a := h.put("a", "1")
	h.put("d", "1")
	rev := h.commit(directory.Txn{
		If: []directory.Condition{{Key: h.key("a"), Revision: a}, {Key: h.key("b")}},
		Puts: []directory.Put{
			{Key: h.key("a"), Value: []byte("2")}, {Key: h.key("b"), Value: []byte("2")}, {Key: h.key("c"), Value: []byte("2")},
		},
		Deletes: []string{h.key("d")},
	})
	for _, name := range []string{"a", "b", "c"} {
		value, got := h.get(name)
		qt.Check(h, qt.Equals(value, "2"))
		qt.Check(h, qt.Equals(got, rev))
	}
	got, _ := h.list("")
	qt.Check(h, qt.DeepEquals(got, []string{"a=2", "b=2", "c=2"}))
}

// A transaction with a condition that does not hold does nothing, and names the first one.
func testConflict(h *harness) {
	a, b := h.put("a", "1"), h.put("b", "1")
	for name, test := range map[string]struct {
		conditions []directory.Condition
		key        string
		value      string
		revision   int64
	}{
		"not the revision": {[]directory.Condition{{Key: h.key("a"), Revision: b}}, "a", "1", a},
		"there already":    {[]directory.Condition{{Key: h.key("a")}}, "a", "1", a},
		"not there":        {[]directory.Condition{{Key: h.key("c"), Revision: a}}, "c", "", 0},
		"second":           {[]directory.Condition{{Key: h.key("a"), Revision: a}, {Key: h.key("b"), Revision: a}}, "b", "1", b},
		"first of two":     {[]directory.Condition{{Key: h.key("b")}, {Key: h.key("a")}}, "b", "1", b},
		"middle":           {[]directory.Condition{{Key: h.key("c")}, {Key: h.key("b"), Revision: 1 << 60}, {Key: h.key("a"), Revision: a}}, "b", "1", b},
		"revision to come": {[]directory.Condition{{Key: h.key("a"), Revision: b + 1}}, "a", "1", a},
	} {
		_, err := h.store.Commit(h.ctx, directory.Txn{
			If: test.conditions, Puts: []directory.Put{{Key: h.key("new"), Value: []byte("1")}}, Deletes: []string{h.key("a")},
		})
		c := h.conflict(err, test.key)
		qt.Check(h, qt.Equals(c.Now.Revision, test.revision), qt.Commentf("%s", name))
		qt.Check(h, qt.Equals(string(c.Now.Value), test.value), qt.Commentf("%s", name))
		if test.revision > 0 {
			qt.Check(h, qt.Equals(c.Now.Key, c.Key), qt.Commentf("%s", name))
		}
	}
	got, _ := h.list("")
	qt.Check(h, qt.DeepEquals(got, []string{"a=1", "b=1"}))
}

// A transaction that changes nothing tells whether its conditions hold.
func testConditionOnly(h *harness) {
	a := h.put("a", "1")
	rev := h.commit(directory.Txn{If: []directory.Condition{{Key: h.key("a"), Revision: a}}})
	qt.Check(h, qt.IsTrue(rev >= a))
	_, err := h.store.Commit(h.ctx, directory.Txn{If: []directory.Condition{{Key: h.key("a"), Revision: a + 1}}})
	_ = h.conflict(err, "a")
	value, got := h.get("a")
	qt.Check(h, qt.Equals(value, "1"))
	qt.Check(h, qt.Equals(got, a))
}

func testDeleteNothing(h *harness) {
	after := h.put("a", "1")
	ctx := h.ctx
	w := h.watch(ctx, "", after)
	h.remove("nothing")
	h.commit(directory.Txn{Puts: []directory.Put{{Key: h.key("a"), Value: []byte("2")}}, Deletes: []string{h.key("nothing")}})
	w.expect("a=2")
}

// largest is a transaction with n conditions and n puts and deletes.
func largest(h *harness, n int, value string) directory.Txn {
	var t directory.Txn
	for i := range n {
		key := h.key(fmt.Sprintf("%03d", i))
		t.If = append(t.If, directory.Condition{Key: key})
		if i%2 == 0 {
			t.Puts = append(t.Puts, directory.Put{Key: key, Value: []byte(value)})
		} else {
			t.Deletes = append(t.Deletes, key)
		}
	}
	return t
}

func testLargest(h *harness) {
	h.commit(largest(h, directory.MaxTxn, "1"))
	got, _ := h.list("")
	qt.Check(h, qt.HasLen(got, directory.MaxTxn/2))
	// The last condition of many is named as well as the first.
	t := largest(h, directory.MaxTxn, "2")
	for i := range t.If {
		_, t.If[i].Revision = h.get(fmt.Sprintf("%03d", i))
	}
	last := len(t.If) - 1
	t.If[last].Revision = 1
	_, err := h.store.Commit(h.ctx, t)
	_ = h.conflict(err, fmt.Sprintf("%03d", last))
}

// What is no transaction is refused, and nothing of it is done.
func testRefused(h *harness) {
	twice := directory.Put{Key: h.key("a"), Value: []byte("1")}
	for name, t := range map[string]directory.Txn{
		"too large":       largest(h, directory.MaxTxn+1, "1"),
		"put twice":       {Puts: []directory.Put{twice, twice}},
		"put and deleted": {Puts: []directory.Put{twice}, Deletes: []string{twice.Key}},
		"deleted twice":   {Deletes: []string{twice.Key, twice.Key}},
	} {
		_, err := h.store.Commit(h.ctx, t)
		qt.Check(h, qt.ErrorIs(err, directory.ErrTxn), qt.Commentf("%s", name))
	}
	got, _ := h.list("")
	qt.Check(h, qt.HasLen(got, 0))
}

// Many increase one number, each so many times: none is lost.
func testCompareAndSwap(h *harness) {
	const many, times = 8, 10
	h.put("n", "0")
	var all sync.WaitGroup
	errs := make(chan error, many)
	for range many {
		s := h.another()
		all.Go(func() {
			for range times {
				if err := increase(h, s); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		qt.Check(h, qt.IsNil(err))
	}
	value, _ := h.get("n")
	qt.Check(h, qt.Equals(value, strconv.Itoa(many*times)))
}

// increase adds one, by compare-and-swap, however often that has to be tried.
func increase(h *harness, s directory.Store) error {
	e, err := s.Get(h.ctx, h.key("n"))
	for err == nil {
		n, bad := strconv.Atoi(string(e.Value))
		if bad != nil {
			return bad
		}
		_, err = s.Commit(h.ctx, directory.Txn{
			If:   []directory.Condition{{Key: e.Key, Revision: e.Revision}},
			Puts: []directory.Put{{Key: e.Key, Value: []byte(strconv.Itoa(n + 1))}},
		})
		var c *directory.ConflictError
		if !errors.As(err, &c) {
			return err
		}
		e, err = c.Now, nil
	}
	return err
}

// Of many who claim several entries together, one gets all of them, and all others learn who.
func testClaimOnce(h *harness) {
	const many = 8
	won := make([]bool, many)
	errs := make([]error, many)
	var all sync.WaitGroup
	for i := range many {
		s := h.another()
		all.Go(func() {
			me := []byte(strconv.Itoa(i))
			names := []string{h.key("a"), h.key("b"), h.key("c")}
			var t directory.Txn
			for j := range names {
				key := names[(i+j)%len(names)]
				t.If = append(t.If, directory.Condition{Key: key})
				t.Puts = append(t.Puts, directory.Put{Key: key, Value: me})
			}
			_, err := s.Commit(h.ctx, t)
			var c *directory.ConflictError
			switch {
			case err == nil:
				won[i] = true
			case errors.As(err, &c):
				errs[i] = wrongWinner(c, string(me))
			default:
				errs[i] = err
			}
		})
	}
	all.Wait()
	var winners []string
	for i := range many {
		qt.Check(h, qt.IsNil(errs[i]))
		if won[i] {
			winners = append(winners, strconv.Itoa(i))
		}
	}
	qt.Assert(h, qt.HasLen(winners, 1))
	for _, name := range []string{"a", "b", "c"} {
		value, _ := h.get(name)
		qt.Check(h, qt.Equals(value, winners[0]))
	}
}

func wrongWinner(c *directory.ConflictError, me string) error {
	if c.Now.Revision == 0 || string(c.Now.Value) == me {
		return fmt.Errorf("conflict of %s at %s with %q, revision %d", me, c.Key, c.Now.Value, c.Now.Revision)
	}
	return nil
}
