// Package guard lets packets of known hosts in, and counts them, for channels that come to a UDP
// port of this host: by a table of the host's firewall (nftables).
//
//	input:  what is the channels'
//	          -> by an underlay device, for an address of this host, from a known one:
//	             host's chain: count, accept
//	          -> else count, drop
//	output: what is the channels' -> host's chain: count
//
// The table also keeps which hosts there are beyond the end of the process: their numbers, names
// and what else its user wants to know of them are in comments. A table in the network's fabric
// drops what says it comes from where no endpoint of another host is, and no machine beyond a gateway that
// has sent it.
//
// Needs CAP_NET_ADMIN, the kernel's module nf_tables, and Linux 4.17.
package guard
