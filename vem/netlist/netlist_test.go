package netlist_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

func TestWhole(t *testing.T) {
	left := 3
	list := func() ([]int, error) {
		if left--; left >= 0 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	}
	all, err := netlist.Whole(list)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(all, []int{1, 2}))

	all, err = netlist.Whole(func() ([]int, error) { return []int{1}, netlink.ErrDumpInterrupted })
	qt.Check(t, qt.ErrorIs(err, netlink.ErrDumpInterrupted))
	qt.Check(t, qt.HasLen(all, 0)) // nobody decides by a part of it

	other := errors.New("other")
	_, err = netlist.Whole(func() ([]int, error) { return nil, other })
	qt.Check(t, qt.Equals(err, other))
}

// What was there the whole time is in each list, while devices, addresses, routes and rules come and go.
func TestListsAreWhole(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const devices = 200
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(ns.Close())) }()
	var nl *netlink.Handle
	qt.Assert(t, qt.IsNil(ns.Do(func() (err error) {
		nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})))
	defer nl.Close()
	for i := range devices {
		qt.Assert(t, qt.IsNil(add(nl, fmt.Sprintf("stays%d", i), i)))
	}

	done := make(chan struct{})
	var changing sync.WaitGroup
	defer changing.Wait()
	defer close(done)
	changing.Go(func() { qt.Check(t, qt.IsNil(ns.Do(func() error { return change(done) }))) })

	// It does change while it is read.
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := nl.LinkList(); errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		qt.Assert(t, qt.IsTrue(time.Now().Before(deadline)))
	}
	for range 200 {
		links, err := netlist.Links(nl)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(len(links) >= devices), qt.Commentf("%d", len(links)))
		addrs, err := netlist.Addrs(nl)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(len(addrs) >= devices), qt.Commentf("%d", len(addrs)))
		routes, err := netlist.Routes(nl, unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(len(routes) >= devices), qt.Commentf("%d", len(routes)))
		rules, err := netlist.Rules(nl, unix.AF_INET)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(len(rules) >= devices), qt.Commentf("%d", len(rules)))
	}
}

// add makes a device with an address, its route and a rule.
func add(nl *netlink.Handle, name string, number int) error {
	dev := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "x"}
	if err := nl.LinkAdd(dev); err != nil {
		return err
	}
	a, err := netlink.ParseAddr(fmt.Sprintf("198.18.%d.1/24", number))
	if err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.Family, rule.Table, rule.Priority = unix.AF_INET, unix.RT_TABLE_MAIN, 1000+number
	return errors.Join(nl.AddrAdd(dev, a), nl.LinkSetUp(dev), nl.RuleAdd(rule))
}

// change makes and removes one after the other, until it is done.
func change(done <-chan struct{}) error {
	nl := netlist.Here()
	for number := 200; ; number = 200 + (number+1)%50 {
		select {
		case <-done:
			return nil
		default:
		}
		name := fmt.Sprintf("goes%d", number)
		if err := add(nl, name, number); err != nil {
			return err
		}
		dev, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		rule := netlink.NewRule()
		rule.Family, rule.Table, rule.Priority = unix.AF_INET, unix.RT_TABLE_MAIN, 1000+number
		if err := errors.Join(nl.RuleDel(rule), nl.LinkDel(dev)); err != nil {
			return err
		}
	}
}
