package overview

import (
	"fmt"
	"strings"
	"time"
)

// Check is something that was looked at, and how it is.
type Check struct {
	Name   string
	Status Status
	Found  string // for people
	Remedy string // what to do about it; may be empty
}

// Facts are what is looked at of a host that is in an installation.
type Facts struct {
	Now          time.Time
	Host         string // the name of this host
	Installation string
	Version      string // of its snapctld
	Idle         error  // why it takes no part in its installation; nil: it does
	Ports        []Port // where this host listens for others
	Devices      []Device
	Hosts        []Neighbour
	Directory    DirectoryFacts
	Certificate  time.Time // when it ends
	RenewAt      time.Time // when it is renewed
	Kernel       KernelFacts
	Unreached    []string // why other hosts don't reach apps of this one

	NeedsMTU int           // bytes of the underlay that a full-size packet of an app takes, at most
	MaxSkew  time.Duration // how far clocks may differ before certificates are refused
}

// Port is where something has to listen.
type Port struct {
	At  string // an address with a port, or a URL
	Err error  // nil: it can be connected to
}

// Device is a network device that channels may begin at.
type Device struct {
	Name string // empty: none has the address
	Addr string
	MTU  int // bytes
}

// Neighbour is another host of the installation.
type Neighbour struct {
	Name    string
	Alive   bool
	Version string
	HostHealth
}

// KernelFacts are what this host's kernel can't do.
type KernelFacts struct {
	BPF       error // why packets can't be carried by programs; nil: they can
	WireGuard error // why it can't encrypt packets of channels; nil: it can, or none are to be
}

// DirectoryFacts are how it stands with the directory.
type DirectoryFacts struct {
	Ports  []Port        // of its members
	Took   time.Duration // for a question that all members have to agree on
	Err    error         // why it can't be asked
	Remedy string        // what to do about Err
}

// seenSkew is how far clocks are apart when people should know of it.
const seenSkew = time.Second

// Checkup judges what was found of a host.
func Checkup(f *Facts) []Check {
	checks := []Check{named("installation", f.member())}
	if f.Idle != nil {
		return checks
	}
	return append(checks,
		named("control-port", f.ports()), named("hosts", f.neighbours()), named("directory", f.directory()), named("directory-ports", f.directoryPorts()),
		named("underlay", f.underlay()), named("clocks", f.clocks()), named("versions", f.versions()), named("certificate", f.certificate()),
		named("bpf", f.bpf()), named("wireguard", f.wireguard()), named("reached-apps", f.unreached()),
	)
}

func named(name string, v verdict) Check { return Check{name, v.status, v.found, v.remedy} }

func warning(remedy, format string, args ...any) verdict {
	return verdict{Warning, fmt.Sprintf(format, args...), remedy}
}

func (f *Facts) member() verdict {
	if f.Idle != nil {
		return failed("snapctld tries again every few seconds, and its log says more", "host %s takes no part in its installation: %s", f.Host, f.Idle)
	}
	return fine("host %s of installation %s", f.Host, f.Installation)
}

// broken are the ports that can't be connected to.
func broken(all []Port) (list []string) {
	for _, p := range all {
		if p.Err != nil {
			list = append(list, fmt.Sprintf("%s: %s", p.At, p.Err))
		}
	}
	return list
}

func places(all []Port) string {
	var list []string
	for _, p := range all {
		list = append(list, p.At)
	}
	return strings.Join(list, ", ")
}

func (f *Facts) ports() verdict {
	switch bad := broken(f.Ports); {
	case len(f.Ports) == 0:
		return failed("this host has no address at which others reach it: let it join again, with --address", "nothing listens")
	case len(bad) > 0:
		return warning("give the device its address back, or let the host join again with the addresses that it has", "not reached: %s", strings.Join(bad, "; "))
	}
	return fine("listens at %s", places(f.Ports))
}

func (f *Facts) neighbours() verdict {
	var bad, remedies []string
	for _, h := range f.Hosts {
		c := &h.Control
		switch {
		case c.Connected && h.Alive:
		case c.Connected:
			bad = append(bad, fmt.Sprintf("host %s is connected, and does not reach the directory", h.Name))
			remedies = append(remedies, "snapctl doctor on "+h.Name)
		case c.Err != nil:
			bad, remedies = append(bad, c.Err.Error()), append(remedies, c.Remedy)
		default:
			bad = append(bad, fmt.Sprintf("host %s was not reached yet", h.Name))
		}
	}
	if len(bad) > 0 {
		return warning(strings.Join(distinct(remedies), "; "), "%d of %d hosts: %s", len(bad), len(f.Hosts), strings.Join(bad, "; "))
	}
	return fine("connected to all %d other hosts", len(f.Hosts))
}

// distinct leaves out what is empty or was there.
func distinct(all []string) (list []string) {
	seen := map[string]bool{"": true}
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	return list
}

func (f *Facts) directory() verdict {
	d := &f.Directory
	if d.Err != nil {
		if d.Remedy == "" {
			d.Remedy = "what works goes on: start its members again, or look for what is between them and this host"
		}
		return warning(d.Remedy, "can't be asked: %s", d.Err)
	}
	return fine("answers in %s", d.Took.Round(100*time.Microsecond))
}

func (f *Facts) directoryPorts() verdict {
	bad := broken(f.Directory.Ports)
	switch n := len(f.Directory.Ports); {
	case n == 0:
		return warning("let the host join again", "no member of the directory is known")
	case len(bad) == n:
		return warning("look whether the directory's hosts run, and whether its TCP port is open to this host", "none of %d members is reached: %s", n, strings.Join(bad, "; "))
	case len(bad) > 0:
		return warning("the others do its work meanwhile; look whether that host runs, and whether its TCP port is open", "%d of %d members: %s", len(bad), n, strings.Join(bad, "; "))
	}
	return fine("reached at %s", places(f.Directory.Ports))
}

func (f *Facts) underlay() verdict {
	var good, bad []string
	for _, d := range f.Devices {
		switch {
		case d.Name == "":
			bad = append(bad, fmt.Sprintf("no device has address %s", d.Addr))
		case d.MTU < f.NeedsMTU:
			bad = append(bad, fmt.Sprintf("%s (%s) has MTU %d, and full-size packets of apps in a tunnel need %d: they are answered, and sent smaller", d.Name, d.Addr, d.MTU, f.NeedsMTU))
		default:
			good = append(good, fmt.Sprintf("%s (%s) MTU %d", d.Name, d.Addr, d.MTU))
		}
	}
	switch {
	case len(bad) > 0:
		return warning("set the device up with its address, and with an MTU of 1500 if its network has that", "%s", strings.Join(bad, "; "))
	case len(good) == 0:
		return failed("set a device up that reaches the other hosts", "this host has no address where channels can begin")
	}
	return fine("%s", strings.Join(good, ", "))
}

func (f *Facts) clocks() verdict {
	var bad []string
	known, worst := 0, time.Duration(0)
	for _, h := range f.Hosts {
		c := &h.Control
		if !c.Connected {
			continue
		}
		known++
		worst = max(worst, c.Skew.Abs())
		if c.Skew.Abs() > seenSkew+c.RoundTrip/2 {
			how := "ahead"
			if c.Skew < 0 {
				how = "behind"
			}
			bad = append(bad, fmt.Sprintf("that of %s is %s %s", h.Name, c.Skew.Abs().Round(100*time.Millisecond), how))
		}
	}
	const remedy = "have all hosts take the time from one source: systemctl status systemd-timesyncd, or chronyc tracking"
	switch {
	case worst > f.MaxSkew:
		return failed(remedy, "clocks differ so much that new certificates are refused: %s", strings.Join(bad, ", "))
	case len(bad) > 0:
		return warning(remedy, "clocks differ: %s", strings.Join(bad, ", "))
	}
	return fine("those of %d hosts are as this one's", known)
}

func (f *Facts) versions() verdict {
	var other, unable []string
	for _, h := range f.Hosts {
		switch {
		case h.Control.Incompatible:
			unable = append(unable, h.Control.Err.Error())
		case h.Version != "" && h.Version != f.Version:
			other = append(other, fmt.Sprintf("%s has %s", h.Name, h.Version))
		}
	}
	switch {
	case len(unable) > 0:
		return failed("upgrade snapctl on the older of both hosts", "%s", strings.Join(unable, "; "))
	case len(other) > 0:
		return warning("they work together; upgrade the older ones when it suits", "this host has %s, %s", f.Version, strings.Join(other, ", "))
	}
	return fine("all hosts have %s", f.Version)
}

func (f *Facts) certificate() verdict {
	until := f.Certificate.UTC().Format(time.DateTime + " MST")
	switch left := f.Certificate.Sub(f.Now); {
	case left <= 0:
		return failed("let the host join again, with a new invitation", "this host's certificate ended at %s", until)
	case f.Now.After(f.RenewAt.Add(24 * time.Hour)):
		return warning("look whether a host that has the CA is reached: snapctl host ls; the log of snapctld says why it was not renewed", "this host's certificate ends at %s, and should have been renewed at %s", until, f.RenewAt.UTC().Format(time.DateTime+" MST"))
	}
	return fine("until %s, renewed before", until)
}

func (f *Facts) bpf() verdict {
	if f.Kernel.BPF != nil {
		return warning("use Linux 6.1 or newer with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT, and start snapctld with CAP_BPF and CAP_NET_ADMIN", "channels to other hosts are VXLAN, which is slower: %s", f.Kernel.BPF)
	}
	return fine("the kernel takes the programs that carry packets between hosts")
}

func (f *Facts) wireguard() verdict {
	if f.Kernel.WireGuard != nil {
		return warning("use a kernel with CONFIG_WIREGUARD (Linux 5.6 or newer); or, if you trust the network between hosts, snapctl host set --channel auto on the hosts that are set to wireguard", "channels are encrypted by a process, which carries a twentieth to a fifth of what the network does, and takes much of a processor for that: %s", f.Kernel.WireGuard)
	}
	return fine("no process has to encrypt for channels")
}

func (f *Facts) unreached() verdict {
	if len(f.Unreached) > 0 {
		return warning("give one of both apps another name or address: snapctl rm it, and run it again", "other hosts don't reach all apps of this one: %s", strings.Join(f.Unreached, "; "))
	}
	return fine("other hosts find all apps of this one")
}
