// Package userspace is the process that does WireGuard for one network where the kernel can't: the
// same binary as the daemon, started as "snapctld wireguard --mtu MTU" by package wireguard, in the
// host's network namespace.
//
//	descriptor  what
//	3           a TUN in the network's fabric
//	4           a socket that listens, at which it is configured (the protocol of wg(8))
//
// It outlives the daemon, which finds it by that socket, and ends when the TUN is deleted, or by
// SIGTERM. A daemon asks it now and then whether it is there, and has it end if it does not answer.
//
// Peers are where they are configured to be, and nowhere else: another source of authentic packets
// does not lead there what is sent (WireGuard calls that roaming). Which way a channel takes, the
// daemons of both hosts agree about.
//
// The implementation is golang.zx2c4.com/wireguard. It takes tens of MiB of memory under load.
package userspace

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// The descriptors that the process is started with.
const (
	tunDescriptor    = 3
	socketDescriptor = 4
)

// Run is the whole of the process: it serves until the TUN is deleted, or ctx has ended.
func Run(ctx context.Context, mtu int, log *slog.Logger) error {
	// It listens already. By this the kernel knows this process as the one that does, and the daemon can
	// end it if it hangs (SO_PEERCRED).
	if err := unix.Listen(socketDescriptor, unix.SOMAXCONN); err != nil {
		return fmt.Errorf("listen at socket: %w", err)
	}
	socket, err := net.FileListener(os.NewFile(socketDescriptor, "socket"))
	if err != nil {
		return fmt.Errorf("take socket: %w", err)
	}
	defer socket.Close() //nolint:errcheck // the process ends
	t, _, err := tun.CreateUnmonitoredTUNFromFD(tunDescriptor)
	if err != nil {
		return fmt.Errorf("take TUN: %w", err)
	}
	few := rate.NewLimiter(rate.Every(10*time.Minute), 20) // each packet may have something to say
	d := device.NewDevice(fixed{t, mtu}, conn.NewDefaultBind(), &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf: func(format string, args ...any) {
			if few.Allow() {
				log.ErrorContext(ctx, "WireGuard", slog.String("error", fmt.Sprintf(format, args...)))
			}
		},
	})
	defer d.Close()
	d.DisableSomeRoamingForBrokenMobileSemantics()
	if err := d.Up(); err != nil {
		return fmt.Errorf("bring WireGuard up: %w", err)
	}
	go serve(socket, d) // ends when the socket is closed
	select {
	case <-d.Wait():
	case <-ctx.Done():
	}
	return nil
}

// serve answers at the socket.
func serve(socket net.Listener, d *device.Device) {
	for {
		c, err := socket.Accept()
		if err != nil {
			return
		}
		go d.IpcHandle(c) // ends when the other side closes it
	}
}

// fixed is a TUN in another namespace, where its MTU can't be asked for.
type fixed struct {
	tun.Device

	mtu int
}

// MTU implements [tun.Device].
func (f fixed) MTU() (int, error) { return f.mtu, nil }
