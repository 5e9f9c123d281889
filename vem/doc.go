// Package vem is the root of the virtual endpoint manager (VEM), the side of
// snapctl that owns the network: programs talk to virtual addresses that never
// change, and the VEM knows where each one really is.
//
// A [Manager] is the VEM of one host: it has the networks and the endpoints, and knows which
// addresses and ports of the host are taken. An [Endpoint] is an app's place in its network,
// and holds the app's sockets while the app has no processes:
//
//	Claim -> Attach -> Hold -> Arm -> traffic: Wake -> Disarm -> Release -> Detach -> Free
//	                    ^-------------------------------------------'
//
// The endpoints that an earlier daemon left are adopted, and reclaim what the holder has of
// them. A spare endpoint, that of a ready clone, gives its address up to whoever asks for it.
//
// Its parts, each a package below it:
//
//	netns      open network namespaces, and the only place that enters them
//	netlist    lists of devices, addresses, routes and rules that lack nothing
//	address    the address space of a virtual network (pure)
//	fabric     one network namespace per virtual network per host: wires apps together
//	hold       an app's live kernel sockets while no process has them
//	wake       which traffic wakes an app, and waiting for it
//	holder     the process that keeps those sockets when the daemon does not
//	idle       whether an app has had no traffic for a while, so that it may sleep
//	payload    filters that tell packets with payload from all others
//	pause      waits for a while, or until something ends
//	table      the translation table: what an app is connected to, and where that really is
//
// And what a copy of an app needs, since nobody can hold one socket for two apps:
//
//	tcprepair  TCP connections, saved and made again
//	sockopt    options of sockets, read and set on others
//	copies     both of these for all sockets of an app, and its connections to itself
//	netconf    what a program has set in its own network namespace
//
// And what several hosts have in common:
//
//	membership how hosts make an installation, join it and leave it
//	wire       how they join over the control channel
//	directory  who owns which endpoint, which hosts and networks there are
//	plan       its networks, and their blocks of addresses that hosts lease
//	codec      how a record of the directory is written
//	cache      what one host knows of the directory
//	ownership  which endpoints this host has, on the disk, and which of its copies may send
//	lazy       a store of the directory that need not be reachable at first
//	devices    addresses of this host's network devices
//	conflict   what a host made alone and can't be so in the installation that it joins
//	guard      the ports of a member of the directory: who was removed is refused
//	memory     a store of the directory in memory, for tests
//	etcd       a store of the directory in an etcd cluster
//	member     runs a member of that cluster beside the daemon
//	trust      who belongs to an installation: CA, certificates, invitations, TLS
//	control    what VEMs ask each other: to agree about channels, and what else takes two of them
//	channel    the ways between hosts that an endpoint's packets take
//	vxlan      channels by the kernel's routes, for hosts without BPF
//	wireguard  channels that are encrypted, for networks that are not trusted
//	userspace  the process that does so where the kernel can't
//	guard      lets packets of known hosts in, by the firewall, for both of these
//	routes     and their routes
//	slowpath   where packets wait that have no way to their endpoint yet
//	probe      which ways between hosts work, and how large packets they carry
//	peering    agrees with other hosts about channels, and about who reaches which endpoint over them
//	rule       by which they find of which kind a channel is
//	mesh       connects the networks of this host with those of others, by the three above
//	handover   the sockets that are held of an app, made again on another host
//	plain      those of them that are no TCP connections
//	forge      what a new socket has to receive to be as an old one was
//	gateway    traffic with what is no endpoint: hosts themselves, published ports, other machines
//	upkeep     the directory as one host opens it, runs a member of it, and looks after it
//	overview   what people are shown of all this
//	resolve    who has an endpoint, as far as a host knows
//	errand     what runs until a host leaves it
//	relocate   has other hosts reach this one at other addresses
//	choice     which kind of channels a host was told to have
//	installation  what of all this runs as long as the daemon does
//
// Nothing of vem knows of snapshots or templates: the VEM states its own
// contracts and is useful without them.
package vem
