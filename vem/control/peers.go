package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/control/message"
)

// PeersOptions are what [Peers] are made from.
type PeersOptions struct {
	Self message.Self
	// TLS returns the client's side of mutual TLS for a connection to a host: it proves who
	// this host is, and verifies that the other is the one of that name.
	TLS func(host string) *tls.Config
	// PeerOf returns the host that a verified certificate names.
	PeerOf func(tls.ConnectionState) (host string, ok bool)
	// Explain makes an error of a TLS handshake clear; nil: it is taken as it is.
	Explain func(error) error
	// Changed is told when the connection to a host is there, or is lost. It must not block, nor
	// call Peers. nil: nobody is told.
	Changed func(Status)
	Log     *slog.Logger
}

// Peers asks other hosts. It keeps a connection to each of them, and makes it again when it is
// lost. Its methods may be called at the same time. They return
//
//   - an *[UnreachableError] if the host did not answer: then it may have done what it was asked for;
//   - a *[message.RefusedError] if it will not do it, a *[message.NotOwnerError] or *[message.NotFoundError] where they
//     say so, an *[message.InvalidError] if the request is wrong: then it has done nothing;
//   - a *[message.VersionError] if there is no protocol that both speak;
//   - an error wrapping [context.Canceled] if ctx was cancelled.
type Peers struct {
	opts PeersOptions
	ctx  context.Context //nolint:containedctx // the life of all links
	stop context.CancelFunc
	wait sync.WaitGroup // the links

	mu    sync.Mutex
	links map[string]*link
}

// NewPeers knows no host yet. ctx bounds the life of its connections. The caller closes it.
func NewPeers(ctx context.Context, o PeersOptions) (*Peers, error) {
	o.Self.Protocols = o.Self.Protocols.OrOurs()
	var c message.Checks
	c.Self(o.Self)
	c.That(o.TLS != nil && o.PeerOf != nil && o.Log != nil, "options", "need TLS, PeerOf and Log")
	if c.Err != nil {
		return nil, fmt.Errorf("make a client of the control channel: %w", c.Err)
	}
	p := &Peers{opts: o, links: make(map[string]*link)}
	p.ctx, p.stop = context.WithCancel(ctx)
	return p, nil
}

// Set tells where a host is, now and whenever that changes. A connection over an address that is
// not among addrs any more is closed, and calls that are under way on it are made again over
// another one. A connection over an address that is still there stays, whatever its priority.
func (p *Peers) Set(host string, addrs []Address) error {
	var c message.Checks
	c.Host("host", host)
	addrs, err := sorted(addrs)
	if err = cmp.Or(c.Err, err, p.ctx.Err()); err != nil {
		return fmt.Errorf("set addresses of host %.80q: %w", host, err)
	}
	l, err := p.open(host)
	if err != nil {
		return fmt.Errorf("set addresses of host %s: %w", host, err)
	}
	l.set(addrs)
	return nil
}

// open returns the link to a host, which it makes if need be.
func (p *Peers) open(host string) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[host]; l != nil {
		return l, nil
	}
	if err := p.ctx.Err(); err != nil {
		return nil, err
	}
	l, err := newLink(p.ctx, host, &p.opts)
	if err != nil {
		return nil, err
	}
	p.links[host] = l
	p.wait.Go(l.keep)
	return l, nil
}

// Remove closes all connections to a host, and forgets it.
func (p *Peers) Remove(host string) {
	p.mu.Lock()
	l := p.links[host]
	delete(p.links, host)
	p.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// Close closes all connections. Calls under way fail. It can be repeated.
func (p *Peers) Close() {
	p.stop()
	p.mu.Lock()
	links := p.links
	p.links = make(map[string]*link)
	p.mu.Unlock()
	for _, l := range links {
		l.close()
	}
	p.wait.Wait()
}

// link returns the link to a host, or an *UnreachableError.
func (p *Peers) link(host string) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[host]; l != nil {
		return l, nil
	}
	return nil, &UnreachableError{Host: host}
}

// Status is how it stands with a host.
type Status struct {
	Host string
	// Connected tells whether there is a connection on which the host has been greeted.
	Connected bool
	// Address is where the host answers, and Since from when on; if it is connected.
	Address Address
	Since   time.Time
	// TLS is the state of its connection, likewise.
	TLS *tls.ConnectionState
	// Greeting is what it said last, if it ever did.
	Greeting message.Greeting
	// Err is why it is not connected: an *UnreachableError or a *VersionError, or nil if that is
	// not known yet.
	Err error
}

// Status tells how it stands with a host. It is not ok if the host was not set.
func (p *Peers) Status(host string) (s Status, ok bool) {
	l, err := p.link(host)
	if err != nil {
		return Status{}, false
	}
	return l.status(), true
}
