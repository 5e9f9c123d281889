package wireguard

import (
	"context"
	"fmt"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/pause"
)

// startTime is how long Start waits: a round trip is enough, unless the way does not work.
const startTime = 2 * time.Second

// Start implements [channel.Starter]. Who sends first begins a handshake, and if both ends do so at
// the same moment neither completes, for five seconds: so one end does it, before it has a packet
// to send.
func (m *Module) Start(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	const often, seldom = time.Millisecond, 32 * time.Millisecond
	for wait := often; ; wait = min(2*wait, seldom) {
		done, err := m.begin(ctx, host, wait == often)
		if done || err != nil {
			return err
		}
		if !pause.For(ctx, wait, nil) {
			return fmt.Errorf("host %s does not answer by WireGuard: %w", host, ctx.Err())
		}
	}
}

// begin begins a handshake, and tells whether there has been one.
func (m *Module) begin(ctx context.Context, host string, first bool) (done bool, err error) {
	release, err := m.take(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	e := m.hosts[host]
	if e == nil {
		return true, nil
	}
	d, err := m.wg.get(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range d.Peers {
		if p.PublicKey == e.key && time.Since(p.LastHandshakeTime) < sessionTime {
			return true, nil
		}
	}
	if !first {
		return false, nil
	}
	return false, m.greet(ctx, e)
}

// greet sends hosts a message, and begins a handshake with those that there was none with lately.
// Setting an interval has WireGuard send one at once; none is to follow.
func (m *Module) greet(ctx context.Context, hosts ...*entry) error {
	for _, every := range []time.Duration{time.Minute, 0} {
		var cfg wgtypes.Config
		for _, e := range hosts {
			cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: e.key, UpdateOnly: true, PersistentKeepaliveInterval: &every})
		}
		if err := m.wg.set(ctx, cfg); err != nil {
			return err
		}
	}
	return nil
}

// sessionTime is how old a handshake may be for packets to be sent by it (REJECT_AFTER_TIME).
const sessionTime = 180 * time.Second
