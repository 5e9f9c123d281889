package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/directory/member"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/membership/wire"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/trust"
)

// serveTime is how long it takes at most until a host serves the installation too: etcd wants all
// members connected for 5 seconds before it takes another one.
const serveTime = 2 * time.Minute

// announceAgain is how long Announce waits after the directory could not be asked.
const announceAgain = 5 * time.Second

// Serve has this host, which has joined, run the installation too: it gets the CA, and a member
// of the directory, unless that is the operator's own cluster. Each step may be done again: what
// failed, or was killed, goes on when it is called anew.
func (u *Upkeep) Serve(ctx context.Context, req membership.InitRequest) (*membership.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, serveTime)
	defer cancel()
	peers, self := u.opt.Peers(), u.self().Identity()
	if peers == nil || self == nil {
		return nil, &membership.Error{Text: "this host takes no part in its installation yet", Remedy: "its log says why"}
	}
	if err := u.asItIs(req); err != nil {
		return nil, err
	}
	d, err := u.self().Directory(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := d.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	urls := urlsOf(hosts)
	if own := find(hosts, self.Host()); own != nil && own.CA && (len(own.Member) > 0 || len(urls) == 0) {
		what := "runs a member of the directory, and has the CA"
		if len(urls) == 0 {
			what = "has the CA; the directory is a cluster of your own"
		}
		return nil, &membership.Error{Text: fmt.Sprintf("host %s of installation %s %s already", own.Name, self.Installation(), what)}
	}
	if !u.self().HasCA() {
		exported, err := wire.AskCA(ctx, peers, membership.Signers(hosts))
		if err != nil {
			return nil, err
		}
		if err := u.self().AdoptCA(ctx, exported); err != nil {
			return nil, err
		}
	}
	var at []string
	if len(urls) > 0 {
		if at, err = u.enroll(ctx, self, urls); err != nil {
			return nil, err
		}
	}
	return u.self().Update(ctx, func(h *directory.Host) { h.Member, h.CA = at, true })
}

// asItIs refuses to change what this host has been since it joined.
func (u *Upkeep) asItIs(req membership.InitRequest) error {
	now := u.opt.Place()
	switch {
	case req.Name != "" && req.Name != now.Name,
		req.Port != 0 && req.Port != now.Port,
		len(req.Addresses) > 0 && !slices.Equal(req.Addresses, now.Addresses):
		return &membership.Error{
			Text:   fmt.Sprintf("this host is host %s of its installation, and keeps its name, addresses and port", now.Name),
			Remedy: "leave --name, --address and --port out",
		}
	case len(req.Directory) > 0:
		return &membership.Error{Text: "this host is in an installation, which has its directory", Remedy: "leave --directory out"}
	}
	return nil
}

func find(hosts []directory.Host, name string) *directory.Host {
	at := slices.IndexFunc(hosts, func(h directory.Host) bool { return h.Name == name })
	if at < 0 {
		return nil
	}
	return &hosts[at]
}

// urlsOf are those of all members that hosts run; none if the directory is the operator's
// own cluster.
func urlsOf(hosts []directory.Host) (urls []string) {
	for _, h := range hosts {
		if !h.Removed {
			urls = append(urls, h.Member...)
		}
	}
	return urls
}

// Moved goes by where the directory is, as the hosts' records say: it is called when one of them has
// changed.
func (u *Upkeep) Moved(ctx context.Context) {
	urls := urlsOf(u.opt.Hosts())
	if len(urls) == 0 || slices.Equal(urls, u.self().DirectoryURLs()) {
		return
	}
	u.moved(urls)
	if err := u.self().SetDirectory(ctx, urls); err != nil && ctx.Err() == nil {
		u.opt.Log.ErrorContext(ctx, "remember where the directory is", slog.Any("error", err))
	}
}

// Announce brings what the directory says of this host up to what it is: another version, after an
// upgrade; other addresses; or the member that it runs, or runs no more since the directory was
// restored elsewhere.
func (u *Upkeep) Announce(ctx context.Context) {
	for {
		err := u.announceOnce(ctx)
		if err == nil {
			return
		}
		if _, hopeless := errors.AsType[*directory.HostError](err); hopeless || !pause.For(ctx, announceAgain, nil) {
			return
		}
	}
}

// Keeps refuses addresses of this host among which is none at which other hosts have the member of the
// directory that runs here.
func (u *Upkeep) Keeps(list []membership.Address) error {
	urls, err := u.serves()
	if err != nil || len(urls) == 0 {
		return err
	}
	var at []string
	for _, text := range urls {
		where, err := url.Parse(text)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list, func(a membership.Address) bool { return a.Addr.String() == where.Hostname() }) {
			return nil
		}
		at = append(at, where.Hostname())
	}
	return &membership.Error{
		Text:   "this host runs a member of the directory, which others reach at " + strings.Join(at, ", ") + " alone",
		Remedy: "keep one of these among the addresses; it may be the last: --address " + at[0] + ",priority=100",
	}
}

// Displaced tells whether a record of this host has no member although one runs here: the directory
// was restored elsewhere, and Announce is to be called.
func (u *Upkeep) Displaced(h *directory.Host) bool {
	at, err := u.serves()
	return err == nil && len(at) > 0 && len(h.Member) == 0 && !h.Removed
}

func (u *Upkeep) announceOnce(ctx context.Context) error {
	d, err := u.self().Directory(ctx)
	if err != nil {
		return err
	}
	hosts, err := d.Hosts(ctx)
	if err != nil {
		return err
	}
	h := find(hosts, u.self().Identity().Host())
	if h == nil {
		if h, err = u.enterAgain(ctx, d); err != nil {
			return err
		}
	}
	if h.Removed {
		return &directory.HostError{Name: u.self().Identity().Host(), Why: directory.HostRemoved}
	}
	if len(h.Member) == 0 {
		if err := u.retire(ctx, hosts); err != nil {
			return err
		}
	} else if err := u.correct(ctx); err != nil {
		return err
	}
	at, err := u.serves()
	if err != nil {
		return err
	}
	here := membership.Underlays(u.opt.Place().Addresses)
	if h.Release == u.opt.Version && h.CA == u.self().HasCA() && slices.Equal(h.Member, at) && slices.Equal(h.Underlays, here) {
		return nil
	}
	_, err = u.self().Update(ctx, func(h *directory.Host) {
		h.Underlays = here
		h.Release, h.Protocols, h.CA, h.Member = u.opt.Version, u.opt.Protocols, u.self().HasCA(), at
	})
	return err
}

// enterAgain enters this host once more into a directory that was put back from a backup of before it
// had joined.
func (u *Upkeep) enterAgain(ctx context.Context, d *directory.Directory) (*directory.Host, error) {
	r, err := d.Restored(ctx)
	if err != nil {
		return nil, err
	}
	if r.ID == "" {
		return nil, &directory.HostError{Name: u.self().Identity().Host(), Why: directory.HostUnknown}
	}
	u.opt.Log.WarnContext(ctx, "this host enters the directory once more, which was put back from a backup of before it had joined")
	h, err := u.self().Enter(ctx)
	return &h, err
}

// enroll has a member run here, as one of those that are at these URLs, and returns its own.
func (u *Upkeep) enroll(ctx context.Context, self *trust.Identity, urls []string) ([]string, error) {
	c, err := u.config(self)
	if err != nil {
		return nil, err
	}
	all, err := member.OpenCluster(urls, self.ClientOfAny(anybody))
	if err != nil {
		return nil, err
	}
	defer all.Close() //nolint:errcheck // only asked
	// A member that could not start may have known the others as they were.
	if err := u.dismiss(ctx); err != nil {
		return nil, err
	}
	if c.Cluster, err = all.Add(ctx, c.Name, c.ListenPeer); err != nil {
		return nil, err
	}
	c.Join = true
	if err := u.start(ctx, self, c); err != nil {
		return nil, err
	}
	return c.ListenClient, all.Promote(ctx, c.Name)
}

// Leaving takes the member of a host that is to be removed out of the directory.
func (u *Upkeep) Leaving(ctx context.Context, h directory.Host) error {
	d, err := u.self().Directory(ctx)
	if err != nil {
		return err
	}
	hosts, err := d.Hosts(ctx)
	before := urlsOf(hosts)
	if err != nil || len(before) == 0 {
		return err // or the directory is the operator's own cluster
	}
	urls := urlsOf(slices.DeleteFunc(hosts, func(other directory.Host) bool { return other.Name == h.Name }))
	if len(urls) == 0 {
		return &membership.Error{
			Text:   fmt.Sprintf("host %s runs the only member of the directory", h.Name),
			Remedy: "have another host run one first: \"snapctl host init\" there",
		}
	}
	all, err := member.OpenCluster(urls, u.self().Identity().ClientOfAny(anybody))
	if err != nil {
		return err
	}
	defer all.Close() //nolint:errcheck // what it did is done
	m, err := all.Find(ctx, h.Name, memberURLs(addressesOf(h), h.Port+peerPort))
	if err != nil || m == nil {
		return err
	}
	u.moved(urls) // what is under way at a member that ends would fail
	if err = all.Remove(ctx, m.ID); err != nil {
		u.moved(before)
	}
	if errors.Is(err, member.ErrQuorum) {
		return &membership.Error{
			Text: fmt.Sprintf("remove host %s, which runs a member of the directory", h.Name), Err: err,
			Remedy: "start the other members' hosts, or have another host run a member: \"snapctl host init\" there",
		}
	}
	return err
}

func addressesOf(h directory.Host) (list []netip.Addr) {
	for _, u := range h.Underlays {
		list = append(list, u.Addr)
	}
	return list
}

// Refused tells whether the directory refuses this host's certificate.
func (u *Upkeep) Refused(ctx context.Context) bool {
	s, err := etcd.Open(ctx, etcd.Options{
		Endpoints: u.self().DirectoryURLs(), TLS: u.self().Identity().ClientOfAny(anybody), Prefix: member.StorePrefix, Log: u.opt.Log,
	})
	if err == nil {
		_ = s.Close() // nothing was asked of it
	}
	return errors.Is(err, etcd.ErrTrust)
}
