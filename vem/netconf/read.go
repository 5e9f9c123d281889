package netconf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// reading is one call of Read.
type reading struct {
	standard  Standard
	settings  Settings
	missing   []Missing
	fresh     map[string]bool         // devices of a new namespace
	lost      map[string]bool         // devices that can't be kept
	addresses map[string][]netip.Addr // of those
	defaults  int                     // standard default routes seen
}

// Read reads what a program has set in ns, and what of it can't be kept. The program may
// run on meanwhile.
//
// Cost: some 20 ms, for which it makes a namespace to compare with: the kernel has a
// thousand sysctls.
func Read(ns NetNS, standard Standard) (Settings, []Missing, error) {
	r := &reading{
		standard: standard, settings: Settings{Devices: make(map[int]string)},
		fresh: make(map[string]bool), lost: make(map[string]bool), addresses: make(map[string][]netip.Addr),
	}
	usual, err := r.look()
	if err != nil {
		return Settings{}, nil, err
	}
	err = ns.Do(func() error {
		have, err := readSysctls()
		if err != nil {
			return err
		}
		r.settings.Sysctls = ownSysctls(have, usual, standard.Sysctls)
		if err := r.readLinks(); err != nil {
			return err
		}
		if err := r.readMessages(); err != nil {
			return err
		}
		if r.settings.Tables, err = readTables(); err != nil {
			return err
		}
		r.others()
		return nil
	})
	if err != nil {
		return Settings{}, nil, err
	}
	for i := range r.missing {
		r.missing[i].Addresses = r.addresses[r.missing[i].Device]
	}
	return r.settings, r.missing, nil
}

// look reads a new namespace.
func (r *reading) look() (_ map[string]string, err error) {
	fresh, err := netns.New()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, fresh.Close()) }()
	var sysctls map[string]string
	err = fresh.Do(func() (err error) {
		links, err := netlist.Links(netlist.Here())
		if err != nil {
			return fmt.Errorf("list devices: %w", err)
		}
		for _, l := range links {
			r.fresh[l.Attrs().Name] = true
		}
		sysctls, err = readSysctls()
		return err
	})
	return sysctls, err
}

func (r *reading) miss(format string, args ...any) {
	r.missing = append(r.missing, Missing{What: fmt.Sprintf(format, args...)})
}

// others names what there is of the program's and is not read at all. What can't be asked
// for is not in this kernel.
func (r *reading) others() {
	if r.defaults < len(r.standard.Gateways) {
		r.miss("default route: the app has removed it, and copies have it")
	}
	for file, program := range map[string]string{"ip_tables_names": "iptables-legacy", "ip6_tables_names": "ip6tables-legacy", "arp_tables_names": "arptables-legacy"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		for name := range strings.FieldsSeq(string(b)) {
			r.miss("packet filter table %s of %s", name, program)
		}
	}
	if list, err := netlist.Whole(func() ([]netlink.XfrmPolicy, error) { return netlink.XfrmPolicyList(netlink.FAMILY_ALL) }); err == nil && len(list) > 0 {
		r.miss("%d IPsec policies (ip xfrm policy)", len(list))
	}
	if list, err := netlist.Whole(func() ([]netlink.XfrmState, error) { return netlink.XfrmStateList(netlink.FAMILY_ALL) }); err == nil && len(list) > 0 {
		r.miss("%d IPsec states (ip xfrm state)", len(list))
	}
	links, err := netlist.Links(netlist.Here())
	if err != nil {
		return
	}
	for _, l := range links {
		list, err := netlist.Qdiscs(netlist.Here(), l)
		if err != nil {
			continue
		}
		for _, q := range list {
			// Those that a device gets by itself have no handle.
			if q.Attrs().Handle != 0 && q.Type() != "noqueue" && !r.lost[l.Attrs().Name] {
				r.miss("queueing discipline %s of network device %s (tc qdisc)", q.Type(), l.Attrs().Name)
			}
		}
	}
}
