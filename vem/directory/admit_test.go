package directory_test

import (
	"errors"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
)

// TestAdmit enters hosts together with an entry of somebody else's.
func TestAdmit(t *testing.T) {
	ctx, store := t.Context(), memory.New().Open()
	d, err := directory.Init(ctx, store, "i", "a", time.Unix(0, 0))
	qt.Assert(t, qt.IsNil(err))
	key := directory.Prefix("i") + "token/x"
	rev, err := store.Commit(ctx, directory.Txn{Puts: []directory.Put{{Key: key, Value: []byte("fresh")}}})
	qt.Assert(t, qt.IsNil(err))
	use := func(by string, rev int64) directory.Txn {
		return directory.Txn{If: []directory.Condition{{Key: key, Revision: rev}}, Puts: []directory.Put{{Key: key, Value: []byte(by)}}}
	}
	value := func() string {
		e, err := store.Get(ctx, key)
		qt.Assert(t, qt.IsNil(err))
		return string(e.Value)
	}
	var conflict *directory.ConflictError
	_, err = d.Admit(ctx, directory.Host{Name: "b", Key: "k"}, use("b", rev+7))
	qt.Assert(t, qt.ErrorAs(err, &conflict))
	qt.Assert(t, qt.Equals(conflict.Key, key))
	_, err = d.Host(ctx, "b")
	qt.Assert(t, qt.IsNotNil(err))

	first, err := d.Admit(ctx, directory.Host{Name: "b", Key: "k"}, use("b", rev))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(value(), "b"))
	_, err = d.Admit(ctx, directory.Host{Name: "b", Key: "k"}, use("c", rev))
	qt.Assert(t, qt.ErrorAs(err, &conflict))
	again, err := d.Admit(ctx, directory.Host{Name: "b", Key: "k", Release: "2"}, use("b again", first.Revision))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(again, first))
	qt.Assert(t, qt.Equals(value(), "b again"))

	var host *directory.HostError
	for name, why := range map[string]directory.HostTrouble{"other": directory.HostOther, "k": directory.HostRemoved} {
		if why == directory.HostRemoved {
			qt.Assert(t, qt.IsNil(d.RemoveHost(ctx, "b")))
		}
		_, err = d.Admit(ctx, directory.Host{Name: "b", Key: name}, directory.Txn{})
		qt.Assert(t, qt.ErrorAs(err, &host))
		if name == "k" {
			qt.Assert(t, qt.Equals(host.Why, why))
		}
	}
	_, err = d.Admit(ctx, directory.Host{Name: "b/c", Key: "k"}, directory.Txn{})
	qt.Assert(t, qt.IsNotNil(err))
	store.Set(memory.Cut)
	_, err = d.Admit(ctx, directory.Host{Name: "c", Key: "k"}, directory.Txn{})
	qt.Assert(t, qt.IsTrue(errors.Is(err, directory.ErrUnavailable)))
}
