package upkeep

import (
	"context"
	"net/netip"

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

// Make implements [membership.Directories].
func (u *Upkeep) Make(ctx context.Context, self *trust.Identity, given []string) (directory.Store, []string, error) {
	urls := given
	if len(urls) == 0 {
		c, err := u.config(self)
		if err != nil {
			return nil, nil, err
		}
		if err := u.start(ctx, self, c); err != nil {
			return nil, nil, err
		}
		urls = c.ListenClient
	}
	s, err := u.connect(ctx, self, urls)
	return s, urls, err
}

// Open implements [membership.Directories].
func (u *Upkeep) Open(_ context.Context, self *trust.Identity, urls []string) (directory.Store, error) {
	return lazy.New(func(ctx context.Context) (directory.Store, error) { return u.connect(ctx, self, urls) }), nil
}

func (u *Upkeep) connect(ctx context.Context, self *trust.Identity, urls []string) (directory.Store, error) {
	u.mu.Lock()
	if len(u.urls) > 0 {
		urls = u.urls
	}
	u.mu.Unlock()
	s, err := etcd.Open(ctx, etcd.Options{Endpoints: urls, TLS: self.ClientOfAny(anybody), Prefix: member.StorePrefix, Log: u.opt.Log})
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	u.store = s
	now := u.urls
	u.mu.Unlock()
	if len(now) > 0 {
		s.SetEndpoints(now)
	}
	return s, nil
}

// moved says where the directory is from now on.
func (u *Upkeep) moved(urls []string) {
	u.mu.Lock()
	u.urls = urls
	s := u.store
	u.mu.Unlock()
	if s != nil {
		s.SetEndpoints(urls)
	}
}

// anybody accepts all who have a certificate of the installation: members of the directory are
// asked before it is known who was removed.
func anybody(trust.Peer) error { return nil }

// config is that of a member on this host.
func (u *Upkeep) config(self *trust.Identity) (member.Config, error) {
	files, err := self.Files()
	if err != nil {
		return member.Config{}, err
	}
	tls := &member.TLS{CertFile: files.Pair, KeyFile: files.Pair, CAFile: files.CA, ServerName: files.ServerName, Installation: string(self.Installation())}
	p := u.opt.Place()
	c := member.Config{
		Name: self.Host(), Dir: u.opt.Dir, Token: string(self.Installation()), ClientTLS: tls, PeerTLS: tls,
	}
	var at []netip.Addr
	for _, a := range p.Addresses {
		at = append(at, a.Addr)
	}
	c.ListenClient, c.ListenPeer = memberURLs(at, p.Port+clientPort), memberURLs(at, p.Port+peerPort)
	if len(c.ListenClient) == 0 {
		return c, &membership.Error{
			Text:   "this host has no address at which the directory could be reached",
			Remedy: "give one with --address, or take an etcd cluster of your own with --directory",
		}
	}
	return c, nil
}

// memberURLs are those of a member on a host with these addresses.
func memberURLs(at []netip.Addr, port uint16) (urls []string) {
	for _, a := range at {
		if !a.IsLinkLocalUnicast() {
			urls = append(urls, "https://"+netip.AddrPortFrom(a, port).String())
		}
	}
	return urls
}
