package installation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/directory/lazy"
	"github.com/snapctl/snapctl/vem/directory/member"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/trust"
)

// The ports of a member of the directory, counted from that of the control channel.
const (
	clientPort = 1
	peerPort   = 2
)

// directories opens the directory: an operator's etcd cluster, or a member that runs beside this
// daemon. It is a [membership.Directories].
type directories struct {
	dir   string // of the member
	exe   string // the program snapctl-directory
	place func() membership.Place
	log   *slog.Logger

	mu     sync.Mutex
	member *member.Member // nil: none runs here
}

var _ membership.Directories = (*directories)(nil)

// Make implements [membership.Directories].
func (d *directories) Make(ctx context.Context, self *trust.Identity, given []string) (directory.Store, []string, error) {
	urls := given
	if len(urls) == 0 {
		c, err := d.config(self)
		if err != nil {
			return nil, nil, err
		}
		if err := d.start(ctx, self, c); err != nil {
			return nil, nil, err
		}
		urls = c.ListenClient
	}
	s, err := d.connect(ctx, self, urls)
	return s, urls, err
}

// Open implements [membership.Directories].
func (d *directories) Open(_ context.Context, self *trust.Identity, urls []string) (directory.Store, error) {
	return lazy.New(func(ctx context.Context) (directory.Store, error) { return d.connect(ctx, self, urls) }), nil
}

func (d *directories) connect(ctx context.Context, self *trust.Identity, urls []string) (directory.Store, error) {
	return etcd.Open(ctx, etcd.Options{Endpoints: urls, TLS: self.ClientOfAny(anybody), Prefix: "/", Log: d.log})
}

// anybody accepts all who have a certificate of the installation: members of the directory are
// asked before it is known who was removed.
func anybody(trust.Peer) error { return nil }

// config is that of a member on this host.
func (d *directories) config(self *trust.Identity) (member.Config, error) {
	files, err := self.Files()
	if err != nil {
		return member.Config{}, err
	}
	tls := &member.TLS{CertFile: files.Pair, KeyFile: files.Pair, CAFile: files.CA, ServerName: files.ServerName}
	p := d.place()
	c := member.Config{Name: self.Host(), Dir: d.dir, Token: string(self.Installation()), ClientTLS: tls, PeerTLS: tls}
	for _, a := range p.Addresses {
		if a.Addr.IsLinkLocalUnicast() {
			continue
		}
		c.ListenClient = append(c.ListenClient, httpsURL(a.Addr, p.Port+clientPort))
		c.ListenPeer = append(c.ListenPeer, httpsURL(a.Addr, p.Port+peerPort))
	}
	if len(c.ListenClient) == 0 {
		return c, &membership.Error{
			Text:   "this host has no address at which the directory could be reached",
			Remedy: "give one with --address, or take an etcd cluster of your own with --directory",
		}
	}
	return c, nil
}

func httpsURL(a netip.Addr, port uint16) string {
	return "https://" + netip.AddrPortFrom(a, port).String()
}

// start has a member run, and returns when it serves.
func (d *directories) start(ctx context.Context, self *trust.Identity, c member.Config) error {
	m, err := d.open(self, c)
	if err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return fmt.Errorf("start the directory: %w", err)
	}
	return nil
}

func (d *directories) open(self *trust.Identity, c member.Config) (*member.Member, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.member != nil {
		return d.member, nil
	}
	m, err := member.Open(member.Options{Exe: d.exe, Config: c, TLS: self.ClientOfAny(anybody), Log: d.log})
	if err != nil {
		return nil, err
	}
	d.member = m
	return m, nil
}

// resume starts the member that an earlier daemon had here, if it had one, or goes on with it.
func (d *directories) resume(ctx context.Context, self *trust.Identity) {
	c, err := member.ReadConfig(filepath.Join(d.dir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = d.start(ctx, self, c)
	}
	if err != nil && ctx.Err() == nil {
		d.log.ErrorContext(ctx, "the directory's member on this host does not run", slog.Any("error", err))
	}
}

// close lets go of the member, which goes on.
func (d *directories) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.member == nil {
		return nil
	}
	return d.member.Close()
}

// control is where the control channel of this host listens.
func controlAddresses(p membership.Place) (list []string) {
	for _, a := range p.Addresses {
		addr := a.Addr
		if addr.IsLinkLocalUnicast() {
			addr = addr.WithZone(a.Device)
		}
		list = append(list, "["+addr.String()+"]:"+strconv.Itoa(int(p.Port)))
	}
	return list
}
