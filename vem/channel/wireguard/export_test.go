package wireguard

import (
	"context"
	"errors"
	"log/slog"

	"github.com/snapctl/snapctl/vem/netns"
)

// StartByHand starts a process that does WireGuard in user space, for a device that somebody sets
// up by hand. It returns the name by which wgctrl finds it. It ends with the
// device.
func StartByHand(ctx context.Context, fabric, host *netns.NS, local Local, mtu int) (name string, err error) {
	m := &Module{cfg: Config{Network: "hand", MTU: mtu, Local: local, Log: slog.New(slog.DiscardHandler)}}
	if m.fabric, err = openSide(fabric); err != nil {
		return "", err
	}
	if m.host, err = openSide(host); err != nil {
		return "", errors.Join(err, m.fabric.close())
	}
	if m.wg, err = openControl(fabric, true); err == nil {
		err = m.spawn(ctx)
	}
	return m.wg.name, errors.Join(err, m.wg.close(), m.fabric.close(), m.host.close())
}
