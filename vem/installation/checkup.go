package installation

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"github.com/snapctl/snapctl/vem/devices"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/installation/relocate"
	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/trust"
)

// lookFor is how long a checkup waits for a port, and for the directory.
const lookFor = 2 * time.Second

// Checkup looks at what this host needs of others, and at what they need of it: nothing if it is
// in no installation.
func (i *Installation) Checkup(ctx context.Context) []overview.Check {
	id := i.Identity()
	if id == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	f := &overview.Facts{
		Now: time.Now(), Host: id.Host(), Installation: string(id.Installation()), Version: i.opt.Version,
		Certificate: id.Expires(), RenewAt: id.RenewAt(), Kernel: overview.KernelFacts{BPF: programs()},
		NeedsMTU: fabric.DefaultMTU + ipv6Header, MaxSkew: trust.MaxSkew,
	}
	p, err := i.running()
	if err != nil {
		f.Idle = err
		return overview.Checkup(f)
	}
	f.Kernel.WireGuard = p.mesh.Unencrypted(ctx)
	var at []string
	for _, text := range i.DirectoryURLs() {
		if u, err := url.Parse(text); err == nil {
			at = append(at, u.Host)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { f.Ports = overview.Dial(ctx, relocate.ControlAddresses(i.placeNow())) })
	wg.Go(func() { f.Directory.Ports = overview.Dial(ctx, at) })
	wg.Go(func() { f.Directory.Took, f.Directory.Err = i.askDirectory(ctx) })
	wg.Wait()
	f.Directory.Remedy = remedy(f.Directory.Err)
	f.Devices = i.devices()
	f.Hosts = i.neighbours(ctx, p)
	if r := p.registrar.Load(); r != nil {
		f.Unreached = r.Unreached()
	}
	return overview.Checkup(f)
}

const ipv6Header = 40 // bytes, around a packet of IPv4 or IPv6

// programs tells whether the kernel takes what carries packets: programs of tc that redirect to
// another namespace (Linux 5.10).
func programs() error {
	return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectPeer)
}

// askDirectory asks the directory a question that a majority of it has to agree on.
func (i *Installation) askDirectory(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	d, err := i.Directory(ctx)
	if err == nil {
		_, err = d.Check(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = directory.ErrUnavailable
	}
	return time.Since(began), err
}

// devices are those that have the addresses at which others reach this host.
func (i *Installation) devices() (list []overview.Device) {
	found := devices.Underlay(i.placeNow().Addresses)
	for _, a := range i.placeNow().Addresses {
		d := overview.Device{Addr: a.Addr.String()}
		for _, u := range found {
			if u.Prefix.Addr() == a.Addr {
				d.Name = u.Device
			}
		}
		if dev, err := net.InterfaceByName(d.Name); err == nil {
			d.MTU = dev.MTU
		}
		list = append(list, d)
	}
	return list
}

func (i *Installation) neighbours(ctx context.Context, p *part) (list []overview.Neighbour) {
	c := p.cache.Load()
	if c == nil {
		return nil
	}
	health := i.Health(ctx)
	for _, h := range c.Hosts() {
		if known, ok := health.Hosts[h.Name]; ok {
			n := overview.Neighbour{Name: h.Name, Alive: c.Seen(h.Name), Version: h.Release, HostHealth: known}
			if known.Control.Version != "" {
				n.Version = known.Control.Version
			}
			list = append(list, n)
		}
	}
	return list
}
