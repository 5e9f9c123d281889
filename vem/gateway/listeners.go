package gateway

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// Listeners notes the ports that programs of this host listen at, at whatever address: connections
// and datagrams for them are theirs. The caller is in the host's network namespace.
func Listeners(t Taken) error {
	c, err := sockdiag.Dial(nil)
	if err != nil {
		return err
	}
	for name, q := range map[string]sockdiag.InetQuery{
		"tcp": {Proto: unix.IPPROTO_TCP, States: sockdiag.States(sockdiag.Listen)},
		// A UDP socket without a peer is closed to the kernel (net/ipv4/udp.c).
		"udp": {Proto: unix.IPPROTO_UDP, States: sockdiag.States(sockdiag.Close)},
	} {
		for _, q.Family = range []uint8{unix.AF_INET, unix.AF_INET6} {
			list, failed := c.Inet(q)
			err = errors.Join(err, failed)
			for _, s := range list {
				t.Take(name, s.Local.Port(), "a program")
			}
		}
	}
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("look for ports that programs have: %w", err)
	}
	return nil
}
