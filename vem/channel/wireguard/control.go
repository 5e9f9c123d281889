package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/genetlink"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// answerTime is how long a device has to answer: one in user space may hang.
const answerTime = 10 * time.Second

// Kernel tells whether this host's kernel has WireGuard, and loads its module if there is one. It
// returns an error wrapping [fs.ErrNotExist] if it has not.
func Kernel() error {
	c, err := genetlink.Dial(nil)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer c.Close() //nolint:errcheck // only asked
	if _, err := c.GetFamily("wireguard"); err != nil {
		return fmt.Errorf("look for WireGuard in the kernel: %w", err)
	}
	return nil
}

// control configures a device: the kernel's by netlink, one in user space by its socket.
type control struct {
	kernel bool
	name   string // of the device, or of its socket
	client *wgctrl.Client
}

// openControl chooses where WireGuard is done. The client's socket belongs to the fabric.
func openControl(ns *netns.NS, userSpace bool) (*control, error) {
	c := &control{name: fabric.WireGuardDevice}
	if !userSpace {
		err := Kernel()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		c.kernel = err == nil
	}
	if !c.kernel {
		// The number is no other namespace's, and the folder is for all on this machine.
		c.name = fmt.Sprintf("snapctl-%d", ns.Inode())
	}
	err := ns.Do(func() (err error) {
		c.client, err = wgctrl.New()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open WireGuard's configuration: %w", err)
	}
	return c, nil
}

func (c *control) close() error {
	if c == nil {
		return nil
	}
	return c.client.Close()
}

// answer calls fn, and waits for it for a while only.
func answer(ctx context.Context, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- fn() }() // ends when the device answers, or its process ends
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the WireGuard device does not answer: %w", ctx.Err())
	}
}

// set changes the device. What cfg does not have stays.
func (c *control) set(ctx context.Context, cfg wgtypes.Config) error {
	err := answer(ctx, func() error { return c.client.ConfigureDevice(c.name, cfg) })
	if err != nil {
		return fmt.Errorf("configure WireGuard device: %w", err)
	}
	return nil
}

// get returns the device as it is.
func (c *control) get(ctx context.Context) (*wgtypes.Device, error) {
	found := make(chan *wgtypes.Device, 1)
	err := answer(ctx, func() error {
		d, err := c.client.Device(c.name)
		found <- d
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read WireGuard device: %w", err)
	}
	return <-found, nil
}

// remove takes addresses away from the peers that have them, without a packet of another one lost:
// a peer that nobody is gets them, and goes. Only newer kernels can take one away (Linux 6.16).
func (c *control) remove(ctx context.Context, list []netip.Addr) error {
	if len(list) == 0 {
		return nil
	}
	nobody, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return err
	}
	k := nobody.PublicKey()
	if err := c.set(ctx, wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: k, AllowedIPs: single(list)}}}); err != nil {
		return err
	}
	return c.set(ctx, wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: k, Remove: true}}})
}

// single are networks of one address each.
func single(list []netip.Addr) (nets []net.IPNet) {
	for _, a := range list {
		nets = append(nets, net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())})
	}
	return nets
}

// address is the address of such a network.
func address(n net.IPNet) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	return a.Unmap(), ok && ones == bits
}
