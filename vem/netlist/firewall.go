package netlist

import (
	"encoding/binary"
	"errors"
	"fmt"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Firewall is [Whole] for a list of nftables in a network namespace, of which ns is a descriptor. Package
// nftables does not look at the mark. So the kernel is asked, before and after, for the number that each
// transaction changes: it marks a list by the same (net/netfilter/nf_tables_api.c: nft_base_seq,
// nf_tables_dump_tables). An error counts as little as a list does, if there was a transaction
// meanwhile.
func Firewall[T any](ns int, list func() ([]T, error)) ([]T, error) {
	c, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, &mdnetlink.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("open firewall: %w", err)
	}
	defer c.Close() //nolint:errcheck // only asked
	return Whole(func() ([]T, error) {
		before, err := generation(c)
		if err != nil {
			return nil, err
		}
		all, err := list()
		after, failed := generation(c)
		if failed != nil {
			return nil, errors.Join(err, failed)
		}
		if after != before {
			return nil, netlink.ErrDumpInterrupted
		}
		return all, err
	})
}

// generation is the number that each transaction of the firewall changes.
func generation(c *mdnetlink.Conn) (uint32, error) {
	list, err := c.Execute(mdnetlink.Message{
		Header: mdnetlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: mdnetlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the firewall's generation: %w", err)
	}
	const header = 4
	for _, m := range list {
		if len(m.Data) < header {
			continue
		}
		ad, err := mdnetlink.NewAttributeDecoder(m.Data[header:])
		if err != nil {
			return 0, fmt.Errorf("read the firewall's generation: %w", err)
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("the firewall has told no generation")
}
