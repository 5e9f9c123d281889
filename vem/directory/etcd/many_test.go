package etcd_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/etcd"
)

// Many hosts that begin at the same time all get what there is, page by page.
func TestManyList(t *testing.T) {
	in := cluster.New(t, 1, nil)
	ctx := cluster.Ctx(t)
	first := open(t, in, nil)
	const entries, hosts = 3*1000 + 1, 50
	for from := 0; from < entries; from += directory.MaxTxn {
		var txn directory.Txn
		for i := from; i < min(from+directory.MaxTxn, entries); i++ {
			txn.Puts = append(txn.Puts, directory.Put{Key: "n/" + strconv.Itoa(i), Value: make([]byte, 300)})
		}
		_, err := first.Commit(ctx, txn)
		qt.Assert(t, qt.IsNil(err))
	}
	var all []*etcd.Store
	for range hosts {
		all = append(all, open(t, in, nil))
	}
	errs := make(chan error, hosts)
	for _, s := range all {
		go func() {
			list, _, err := s.List(t.Context(), "n/")
			if err == nil && len(list) != entries {
				err = fmt.Errorf("%d entries", len(list))
			}
			errs <- err
		}()
	}
	for range hosts {
		qt.Check(t, qt.IsNil(<-errs))
	}
}
