package netlist_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// firewall is that of a namespace.
type firewall struct{ *nftables.Conn }

func openFirewall(t *testing.T, ns *netns.NS) firewall {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	qt.Assert(t, qt.IsNil(err))
	return firewall{c}
}

// tables adds tables.
func (f firewall) tables(name string, count int) error {
	for i := range count {
		f.AddTable(table(fmt.Sprint(name, i)))
		if err := f.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// again deletes a table and adds it.
func (f firewall) again(name string) error {
	f.DelTable(table(name))
	err := f.Flush()
	f.AddTable(table(name))
	return errors.Join(err, f.Flush())
}

func table(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
}

// What was there the whole time is in each list of the firewall, while tables before and after it come and
// go.
func TestFirewall(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const stay, come = 300, 30
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(ns.Close())) }()
	fd := int(ns.File().Fd())
	mine := openFirewall(t, ns)
	qt.Assert(t, qt.IsNil(mine.tables("goes", come)))
	qt.Assert(t, qt.IsNil(mine.tables("stays", stay)))

	done := make(chan struct{})
	var changing sync.WaitGroup
	defer changing.Wait()
	defer close(done)
	theirs := openFirewall(t, ns)
	changing.Go(func() {
		for {
			for i := range come {
				select {
				case <-done:
					return
				default:
				}
				qt.Check(t, qt.IsNil(theirs.again(fmt.Sprint("goes", i))))
			}
		}
	})

	// It does change while it is read.
	for deadline := time.Now().Add(time.Minute); ; {
		tries := 0
		_, err := netlist.Firewall(fd, func() ([]*nftables.Table, error) { tries++; return mine.ListTables() })
		qt.Assert(t, qt.IsNil(err))
		if tries > 1 {
			break
		}
		qt.Assert(t, qt.IsTrue(time.Now().Before(deadline)))
	}
	for range 100 {
		tables, err := netlist.Firewall(fd, mine.ListTables)
		qt.Assert(t, qt.IsNil(err))
		there := 0
		for _, one := range tables {
			if strings.HasPrefix(one.Name, "stays") {
				there++
			}
		}
		qt.Assert(t, qt.Equals(there, stay))
	}
}

// An error that comes from a change is none, and one that does not is; nor does anybody decide by a part.
func TestFirewallErrors(t *testing.T) {
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(ns.Close())) }()
	fd, f, gone := int(ns.File().Fd()), openFirewall(t, ns), errors.New("it is gone")
	qt.Assert(t, qt.IsNil(f.tables("table", 1)))
	change := func() { qt.Assert(t, qt.IsNil(f.again("table0"))) }
	tries := 0
	all, err := netlist.Firewall(fd, func() ([]int, error) {
		if tries++; tries < 3 {
			change()
			return []int{1}, gone
		}
		return []int{1, 2}, nil
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(all, []int{1, 2}))
	_, err = netlist.Firewall(fd, func() ([]int, error) { return nil, gone })
	qt.Check(t, qt.Equals(err, gone))
	all, err = netlist.Firewall(fd, func() ([]int, error) { change(); return []int{1}, nil })
	qt.Check(t, qt.ErrorIs(err, netlink.ErrDumpInterrupted))
	qt.Check(t, qt.HasLen(all, 0))
}
