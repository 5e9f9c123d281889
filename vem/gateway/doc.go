// Package gateway is about the traffic between a virtual network and what is no endpoint of it: the
// hosts themselves, and machines that know nothing of snapctl.
//
//	a host itself          has one address in each network that hosts share
//	published ports        lead to the app from every host of the installation
//	a gateway              forwards what other machines send to the network's prefix, which then
//	                       appear as the host, or keep the addresses of prefixes that it advertises
//
// A [Forwarder] decides, and remembers what was decided in a file, so that a host which can't reach
// the directory forwards what it did before. The fabric does it.
package gateway
