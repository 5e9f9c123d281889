package netconf

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
)

// Apply sets in ns what the settings have and ns has not. What can't be set it tells, each
// by name: the rest is set.
func (s *Settings) Apply(ns NetNS) ([]error, error) {
	if s.Empty() {
		return nil, nil
	}
	var errs []error
	return errs, ns.Do(func() error {
		applySysctls(s.Sysctls) // again below: those of devices that are made are set then
		errs = applyLinks(s.Links)
		numbers, err := devices()
		if err != nil {
			return err
		}
		errs = append(errs, applyMessages(s.Messages, s.Devices, numbers)...)
		errs = append(errs, applyTables(s.Tables)...)
		errs = append(errs, applySysctls(s.Sysctls)...)
		return nil
	})
}

func devices() (map[string]int, error) {
	links, err := netlist.Links(netlist.Here())
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	m := make(map[string]int, len(links))
	for _, l := range links {
		m[l.Attrs().Name] = l.Attrs().Index
	}
	return m, nil
}

// applyMessages tells the kernel. A route may need another one that comes later: what is
// refused is told again as long as something else was taken.
func applyMessages(list []Message, names map[int]string, numbers map[string]int) []error {
	for {
		var left []Message
		var errs []error
		for _, m := range list {
			if err := m.tell(names, numbers); err != nil {
				left = append(left, m)
				errs = append(errs, fmt.Errorf("%s: %w", m.Text, err))
			}
		}
		if len(left) == 0 || len(left) == len(list) {
			return errs
		}
		list = left
	}
}

func (m *Message) tell(names map[int]string, numbers map[string]int) error {
	data, err := m.told(names, numbers)
	if err != nil {
		return err
	}
	flags := unix.NLM_F_CREATE | unix.NLM_F_ACK
	switch m.Type {
	case unix.RTM_NEWRULE:
		flags |= unix.NLM_F_EXCL // else a rule that is there would be there twice
	case unix.RTM_NEWROUTE:
		flags |= unix.NLM_F_EXCL
		// What a route's hops are like now is told too (RTNH_F_DEAD), and refused.
		data[8], data[9], data[10], data[11] = data[8]&unix.RTNH_F_ONLINK, 0, 0, 0
	default:
		flags |= unix.NLM_F_REPLACE
	}
	req := nl.NewNetlinkRequest(int(m.Type), flags)
	req.AddRawData(data)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
