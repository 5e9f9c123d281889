#!/usr/bin/env bash
# github.com/google/nftables v0.3.0 (Go): what repairs checksums is left out of a rule that rewrites
# an IPv6 address.
#
# Expected: expr.Payload with CsumType none and CsumFlags NFT_PAYLOAD_L4CSUM_PSEUDOHDR, which is what
# nft(8) sends for `ip6 saddr set`, since IPv6 has no checksum of its own, has an attribute
# NFTA_PAYLOAD_CSUM_FLAGS when it is written.
# Seen: it has none; with CsumType inet, as for IPv4, it has. There is no error. So the kernel changes
# the address and not the checksum of TCP or UDP, and the receiver drops the packets.
#
# Why: expr/payload.go writes the flags only inside the branch for a CsumType that is not 0, and
# NFT_PAYLOAD_CSUM_NONE is 0 (include/uapi/linux/netfilter/nf_tables.h).
#
# What snapctl does: vem/fabric/outward writes this expression by itself.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
go=$(scripts/deps go)
export CGO_ENABLED=0 GOWORK=off GOFLAGS=-trimpath
mkdir "$tmp/main"
cd "$tmp/main"
cat >main.go <<'G'
package main

import (
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func main() {
	for _, p := range []expr.Payload{
		{Offset: 12, Len: 4, CsumType: expr.CsumTypeInet, CsumOffset: 10},
		{Offset: 8, Len: 16, CsumType: expr.CsumTypeNone},
	} {
		p.OperationType, p.Base, p.SourceRegister, p.CsumFlags = expr.PayloadWrite, expr.PayloadBaseNetworkHeader, 1, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR
		data, err := expr.MarshalExprData(unix.NFPROTO_INET, &p)
		if err != nil {
			panic(err)
		}
		attrs, err := netlink.UnmarshalAttributes(data)
		if err != nil {
			panic(err)
		}
		has := false
		for _, a := range attrs {
			has = has || a.Type == unix.NFTA_PAYLOAD_CSUM_FLAGS
		}
		fmt.Printf("%d bytes of an address, checksum type %d: flags written: %v\n", p.Len, p.CsumType, has)
	}
}
G
cat >go.mod <<'G'
module finding

go 1.23

require github.com/google/nftables v0.3.0
G
"$go" mod tidy >/dev/null 2>&1
want "attributes" '4 bytes of an address, checksum type 1: flags written: true
16 bytes of an address, checksum type 0: flags written: false' "$("$go" run .)"
