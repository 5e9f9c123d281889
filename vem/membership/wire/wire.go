// Package wire is how hosts join and renew their certificates over the control channel: it turns
// what package membership asks for into calls of package control, and calls into what it answers.
//
//	host that joins                                  host that has the CA
//	membership.Join -> Gate.Join ---- control ----> Desk.Join -> membership.Admit
//	    KeepRenewed -> Gate.Renew --- control ----> Desk.Renew -> membership.Renew
package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/trust"
)

// Renewer asks another host to sign, as [control.Peers] does.
type Renewer interface {
	Renew(ctx context.Context, host string, id message.ID, csr []byte) (message.Credentials, error)
}

// Gate is a [membership.Gate] over the control channel.
type Gate struct {
	Version string // of snapctl
	// Peers are the other hosts, and Hosts returns the names of those to ask for a renewal, one
	// after another. Both may be nil before this host has joined.
	Peers func() Renewer
	Hosts func() []string
	Now   func() time.Time
}

// Join asks a host of the installation to let this host in. Each address of at is tried.
func (g *Gate) Join(ctx context.Context, a membership.Application) (membership.Welcome, error) {
	addrs, err := resolve(ctx, a.At)
	if err != nil {
		return membership.Welcome{}, err
	}
	r := message.JoinRequest{
		TokenID: string(a.Request.Token), Secret: a.Request.Secret.Bytes(), Host: a.Request.Host, CSR: a.Request.CSR,
		Version: g.Version,
	}
	for _, own := range a.Place.Addresses {
		if own.Priority < 0 || len(r.Addresses) == message.MaxAddresses {
			continue
		}
		r.Addresses = append(r.Addresses, message.HostAddress{AddrPort: netip.AddrPortFrom(own.Addr, a.Place.Port), Priority: uint32(own.Priority)})
	}
	explain := func(err error) error { return trust.Explain(err, g.Now()) }
	joined, err := control.Join(ctx, control.JoinOptions{Addresses: addrs, TLS: a.TLS, Explain: explain}, r)
	if err != nil {
		return membership.Welcome{}, err
	}
	return membership.Welcome{Chain: joined.Chain, Directory: joined.Directory}, nil
}

// resolve finds the addresses of HOST:PORT, or of HOST at the usual port.
func resolve(ctx context.Context, at string) (addrs []control.Address, err error) {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		host, port = at, strconv.Itoa(control.DefaultPort)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address %q of the host to join: port %q is no number up to 65535", at, port)
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("address %q of the host to join: %w", at, err)
	}
	for _, ip := range found[:min(len(found), message.MaxAddresses)] {
		addrs = append(addrs, control.Address{To: netip.AddrPortFrom(ip.Unmap(), uint16(number))})
	}
	return addrs, nil
}

// Renew asks one host after another, until one has the CA and signs.
func (g *Gate) Renew(ctx context.Context, csr []byte) (chain []byte, err error) {
	if g.Peers == nil || g.Hosts == nil {
		return nil, errors.New("this host knows no other host yet")
	}
	peers, hosts := g.Peers(), g.Hosts()
	if len(hosts) == 0 {
		return nil, errors.New("this host knows no other host")
	}
	for _, host := range hosts {
		credentials, failed := peers.Renew(ctx, host, message.NewID(), csr)
		if failed == nil {
			return credentials.Chain, nil
		}
		err = errors.Join(err, failed)
	}
	return nil, err
}

// Desk answers hosts that join or renew: the part of [control.Handlers] that is about
// certificates.
type Desk struct {
	Membership *membership.Membership
}

// Join implements [control.Joins].
func (d *Desk) Join(ctx context.Context, from message.Caller, r message.JoinRequest) (message.Joined, error) {
	secret, err := trust.SecretOf(r.Secret)
	if err != nil {
		return message.Joined{}, refused(err)
	}
	w, err := d.Membership.Admit(ctx, from.Address.Addr(), trust.JoinRequest{
		Token: trust.TokenID(r.TokenID), Secret: secret, Host: r.Host, CSR: r.CSR,
	})
	if err != nil {
		return message.Joined{}, refused(err)
	}
	return message.Joined{
		Credentials:  message.Credentials{Chain: w.Chain},
		Installation: w.Installation, Directory: w.Directory,
	}, nil
}

// Renew is that of [control.Hosts].
func (d *Desk) Renew(ctx context.Context, from message.Caller, csr []byte) (message.Credentials, error) {
	if from.TLS == nil {
		return message.Credentials{}, refused(errors.New("no certificate of a host came"))
	}
	peer, _ := trust.PeerOf(*from.TLS)
	chain, err := d.Membership.Renew(ctx, peer, csr)
	if err != nil {
		return message.Credentials{}, refused(err)
	}
	return message.Credentials{Chain: chain}, nil
}

// refused is an error as the host at the other end is told it.
func refused(err error) error {
	if known, ok := errors.AsType[*membership.Error](err); ok {
		return &message.RefusedError{Why: known.Error(), Hint: known.Remedy}
	}
	return &message.RefusedError{Why: err.Error()}
}
