package memory_test

import (
	"net/netip"
	"testing"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/channeltest"
	"github.com/snapctl/snapctl/vem/channel/memory"
)

func TestModule(t *testing.T) {
	channeltest.Run(t, func(*testing.T) channeltest.Rig {
		k := &memory.Kernel{
			Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77::/64"),
			Devices: []string{"eth0", "eth1"},
		}
		return channeltest.Rig{
			Open: func(*testing.T) channel.Module { return k.Open() },
			Underlay: [2]channel.Underlay{
				{Device: "eth0", Addr: netip.MustParseAddr("192.0.2.1")},
				{Device: "eth1", Addr: netip.MustParseAddr("198.51.100.1")},
			},
		}
	})
}
