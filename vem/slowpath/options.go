package slowpath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/snapctl/snapctl/vem/netns"
)

var (
	// ErrOptions says that Options can't work.
	ErrOptions = errors.New("invalid options")
	// ErrForeign says that a device or a route of the fabric with the slow path's name or place
	// is something else.
	ErrForeign = errors.New("not the slow path's")
	// ErrDeviceGone says that somebody deleted the device of an open slow path.
	ErrDeviceGone = errors.New("the slow path's device is gone")
)

// Options describe the slow path of one network on one host.
type Options struct {
	Network  string    // for queries and logs
	NS       *netns.NS // the fabric's; Open takes its own handle of it
	Prefixes []netip.Prefix
	MTU      int // the network's, 1280 to 65521
	Resolver Resolver
	Limits   Limits
	// Device is the device of an earlier process, which [Path.Device] returned there: what waits
	// in it is delivered. Nil: none was kept. It stays the caller's.
	Device *os.File
	// SetUp is called with the device's name once it is there and before a packet comes out of it
	// or goes into it: for programs on it, such as those of [fabric.Fabric.PassOn]. If it fails, so
	// does Open. Nil: nothing is to be done.
	SetUp func(ctx context.Context, device string) error
	// Gated are destinations that are gated from the start: see [Path.Gate].
	Gated []netip.Addr
	Log   *slog.Logger // nil: discard
}

// Limits bound what may wait. Zero values get the defaults. Bytes are those of frames, and
// [frameCost] for each of them.
type Limits struct {
	Bytes            int // over all destinations; 32 MiB
	DestinationBytes int // for one destination; 8 MiB
	SourceBytes      int // from one source; 16 MiB
	Destinations     int // that packets wait for, or that nobody has; 4096
	// SourceDestinations is how many of these one source may have begun, for as long as it is
	// not known how to get there: 128. With Remember it bounds how many look-ups a port scan
	// makes: 64 a second with the defaults.
	SourceDestinations int
	Lookups            int           // at once; 64
	SourceLookups      int           // at once for destinations of one source; 16
	Patience           time.Duration // how long the first packet waits for a way; 30 s
	Remember           time.Duration // how long it is known that nobody has an address; 2 s
}

// frameCost is what is counted for each frame beside its length: what the queues need for it.
const frameCost = 64

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		value *int
		def   int
	}{
		{&l.Bytes, 32 << 20},
		{&l.DestinationBytes, 8 << 20},
		{&l.SourceBytes, 16 << 20},
		{&l.Destinations, 4096},
		{&l.SourceDestinations, 128},
		{&l.Lookups, 64},
		{&l.SourceLookups, 16},
	} {
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	if l.Patience == 0 {
		l.Patience = 30 * time.Second
	}
	if l.Remember == 0 {
		l.Remember = 2 * time.Second
	}
	return l
}

func (l Limits) validate() error {
	for _, v := range []int{
		l.Bytes, l.DestinationBytes, l.SourceBytes, l.Destinations, l.SourceDestinations, l.Lookups, l.SourceLookups,
		int(l.Patience), int(l.Remember),
	} {
		if v < 0 {
			return fmt.Errorf("%w: a limit is below zero", ErrOptions)
		}
	}
	return nil
}

// maxMTU is the largest of a TAP (drivers/net/tun.c: 65535 less the Ethernet header), minMTU the
// smallest of IPv6 (RFC 8200, section 5).
const (
	minMTU = 1280
	maxMTU = 65535 - ethLen
)

func (o *Options) validate() error {
	switch {
	case o.NS == nil || o.Resolver == nil || len(o.Prefixes) == 0:
		return fmt.Errorf("%w: NS, Resolver and Prefixes are required", ErrOptions)
	case o.MTU < minMTU || o.MTU > maxMTU:
		return fmt.Errorf("%w: MTU %d is not in %d to %d", ErrOptions, o.MTU, minMTU, maxMTU)
	}
	for _, p := range o.Prefixes {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return fmt.Errorf("%w: prefix %s", ErrOptions, p)
		}
	}
	for _, a := range o.Gated {
		if !o.contains(a) {
			return fmt.Errorf("%w: gated address %s is in none of the prefixes", ErrOptions, a)
		}
	}
	return o.Limits.validate()
}

func (o *Options) contains(a netip.Addr) bool {
	for _, p := range o.Prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// toAll tells whether an address of the prefixes means no single host: the broadcast address of
// an IPv4 prefix and the first address of any, which is the network's, and in IPv6 that of any
// router (RFC 4291, 2.6.1).
func (o *Options) toAll(a netip.Addr) bool {
	for _, p := range o.Prefixes {
		if single := p.Bits() == p.Addr().BitLen(); single || !p.Contains(a) {
			continue
		}
		if a == p.Addr() || a.Is4() && a == last(p) {
			return true
		}
	}
	return false
}
