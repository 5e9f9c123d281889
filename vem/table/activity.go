package table

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// Activity is a fingerprint of the payload that the sockets of a network
// namespace have carried. Two that are equal mean that nothing came or went
// between them, no connection was made and none ended; TCP keepalives don't
// change it. It is comparable, and of no other use.
type Activity struct {
	tcp uint64 // a sum over the connections, so that their order does not matter
	udp uint64 // datagrams in and out
}

var activitySeed = maphash.MakeSeed() //nolint:gochecknoglobals // one seed for all fingerprints that are compared

// Traffic reads the activity of a namespace. It needs CAP_NET_ADMIN.
func Traffic(ctx context.Context, ns *netns.NS) (Activity, error) {
	var a Activity
	err := ns.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			if err := ctx.Err(); err != nil {
				return err
			}
			socks, err := netlink.SocketDiagTCPInfo(family)
			if err != nil {
				return fmt.Errorf("read TCP sockets: %w", err)
			}
			for _, s := range socks {
				if s.TCPInfo == nil || s.InetDiagMsg == nil || s.InetDiagMsg.State == unix.BPF_TCP_LISTEN {
					continue
				}
				id := s.InetDiagMsg.ID
				a.tcp += maphash.Comparable(activitySeed, [6]uint64{
					uint64(id.SourcePort), uint64(id.DestinationPort), uint64(id.Cookie[0]), uint64(id.Cookie[1]),
					s.TCPInfo.Bytes_acked, s.TCPInfo.Bytes_received,
				})
			}
		}
		// /proc/thread-self is this thread's view: its network namespace.
		for file, keys := range map[string][]string{
			"/proc/thread-self/net/snmp":  {"Udp"},
			"/proc/thread-self/net/snmp6": {"Udp6InDatagrams", "Udp6OutDatagrams"},
		} {
			n, err := datagrams(file, keys)
			if err != nil {
				return err
			}
			a.udp += n
		}
		return nil
	})
	return a, err
}

// datagrams sums the counters of datagrams in one of the two formats: snmp has
// a line of names and one of values, snmp6 a pair on each line.
func datagrams(file string, keys []string) (sum uint64, err error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // no IPv6
	}
	if err != nil {
		return 0, fmt.Errorf("read UDP counters: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	var names []string
	in := bufio.NewScanner(f)
	for in.Scan() {
		fields := strings.Fields(in.Text())
		for _, key := range keys {
			switch {
			case len(fields) == 2 && fields[0] == key:
				n, _ := strconv.ParseUint(fields[1], 10, 64)
				sum += n
			case len(fields) > 2 && fields[0] == key+":" && names == nil:
				names = fields
			case len(fields) > 2 && fields[0] == key+":":
				for i, name := range names {
					if name == "InDatagrams" || name == "OutDatagrams" {
						n, _ := strconv.ParseUint(fields[i], 10, 64)
						sum += n
					}
				}
			}
		}
	}
	return sum, in.Err()
}
