package overview

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// An echo comes back over a network, of both families and sizes; where there is no room for the
// largest packet that is told, and where nobody answers it ends in time.
func TestEcho(t *testing.T) {
	testenv.Need(t, testenv.Root)
	u := underlay.New(t)
	n, err := u.Network(underlay.NetworkConfig{Name: "lan", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}})
	qt.Assert(t, qt.IsNil(err))
	a, b := host.New(t, host.Config{Name: "a"}), host.New(t, host.Config{Name: "b"})
	_, err = n.Attach(t.Context(), a, underlay.PortConfig{})
	qt.Assert(t, qt.IsNil(err))
	far, err := n.Attach(t.Context(), b, underlay.PortConfig{})
	qt.Assert(t, qt.IsNil(err))
	for _, to := range []netip.Addr{far.Addr4(), far.Addr6()} {
		for _, size := range []Size{Small, Full} {
			took, err := Echo(t.Context(), a.Net(), to, size)
			qt.Assert(t, qt.IsNil(err), qt.Commentf("%s %d", to, size))
			qt.Check(t, qt.IsTrue(took > 0))
		}
	}

	qt.Assert(t, qt.IsNil(far.Cut(underlay.Both)))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Echo(ctx, a.Net(), far.Addr4(), Small)
	qt.Check(t, qt.IsNotNil(err))
	_, err = Echo(t.Context(), a.Net(), netip.MustParseAddr("198.51.100.1"), Small)
	qt.Check(t, qt.IsTrue(errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)), qt.Commentf("%v", err))
	qt.Check(t, qt.Equals((&TooBigError{MTU: 1380}).Error(), "there is room for 1380 bytes"))
}
