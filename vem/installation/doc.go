// Package installation is this host's running part in an installation of several hosts: it has
// other hosts share this one's networks, for as long as the daemon runs.
//
//	membership   whether this host is in an installation, and how it comes into one
//	directory    connected to in the background: what works goes on without it
//	control      other hosts ask here, and are asked
//	mesh         the networks
//
// A [registrar.Registrar] keeps the directory's records of this host's endpoints as the VEM has them. It
// does so beside the operations on apps, none of which waits for the directory.
package installation

import "github.com/snapctl/snapctl/vem/registrar"

// Endpoint is an endpoint of this host, as the VEM has it.
type Endpoint = registrar.Endpoint

// Networks is the VEM: the networks and endpoints of this host.
type Networks = registrar.Networks
