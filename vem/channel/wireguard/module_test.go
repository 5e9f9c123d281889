package wireguard_test

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/channeltest"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// What the methods promise, on a host that is a mere namespace with two underlay devices.
func TestModule(t *testing.T) { everywhere(t, testModule) }

func testModule(t *testing.T, local wireguard.Local) {
	t.Helper()
	testenv.Need(t, testenv.Root)
	local.Secret, local.LogPath = wireguard.Secret{1}, filepath.Join(t.TempDir(), "log")
	channeltest.Run(t, func(t *testing.T) channeltest.Rig {
		t.Helper()
		ns, err := netns.New()
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { ns.Close() })
		qt.Assert(t, qt.IsNil(ns.Do(func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = "under0", 1500
			v := netlink.NewVeth(attrs)
			v.PeerName = "under1"
			return netlink.LinkAdd(v)
		})))
		f, err := fabric.Open(t.Context(), fabric.Config{
			Network: "default", Prefix4: prefix4, Prefix6: prefix6, Dir: t.TempDir(), Host: ns, MTU: networkMTU, Plain: true,
		})
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() {
			qt.Check(t, qt.IsNil(f.Delete(context.WithoutCancel(t.Context()))))
			qt.Check(t, qt.IsNil(f.Close()))
		})
		return channeltest.Rig{
			Open: func(t *testing.T) channel.Module {
				t.Helper()
				m, err := wireguard.Open(t.Context(), wireguard.Config{
					Self: "self", Network: "default", Fabric: f.Namespace(), Host: ns, Prefix4: prefix4, Prefix6: prefix6, MTU: networkMTU,
					Local: local, Run: func(fn func(context.Context)) { go fn(t.Context()) },
				})
				qt.Assert(t, qt.IsNil(err))
				return m
			},
			Complete: func(h *channel.Host) {
				k := sha256.Sum256([]byte(h.Name)) // any will do: nobody is there
				h.Port, h.Parameters = 7123, k[:]
			},
			Underlay: [2]channel.Underlay{
				{Device: "under0", Addr: netip.MustParseAddr("192.0.2.1")},
				{Device: "under1", Addr: netip.MustParseAddr("198.51.100.1")},
			},
		}
	})
}
