// Package vem is the root of the virtual endpoint manager (VEM), the side of
// snapctl that owns the network: programs talk to virtual addresses that never
// change, and the VEM knows where each one really is.
//
// It holds no code. Its parts:
//
//	netns      open network namespaces, and the only place that enters them
//	endpoint   address pools of a virtual network (pure)
//	fabric     one network namespace per virtual network per host: wires apps together
//	hold       an app's live kernel sockets while no process has them
//	holder     the process that keeps those sockets when the daemon does not
//
// Nothing below vem knows of snapshots or templates: the VEM states its own
// contracts and is useful without them.
package vem
