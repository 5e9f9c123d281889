package message

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

var (
	// A label of DNS, in lower case (RFC 1123, 2.1).
	hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// A network, a module, and a kind of stream.
	shortName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
)

// maxSpan bounds times that a peer says: 100 years.
const maxSpan = 100 * 365 * 24 * time.Hour

// Checks finds the first thing that is wrong with a value.
type Checks struct {
	// Err is an *[InvalidError], or nil as long as nothing wrong was found.
	Err error
}

// That says what has to be true of a field.
func (c *Checks) That(ok bool, field, format string, args ...any) {
	if !ok && c.Err == nil {
		c.Err = &InvalidError{What: field, Why: fmt.Sprintf(format, args...)}
	}
}

// Host checks the name of a host.
func (c *Checks) Host(field, s string) {
	c.That(hostName.MatchString(s), field, "%.80q is no name of a host: lower-case letters, digits and hyphens, at most 63", s)
}

// Name checks the name of a network, of a module, or of a kind of stream.
func (c *Checks) Name(field, s string) {
	c.That(shortName.MatchString(s), field, "%.80q is no name: lower-case letters, digits, - and _, at most 63", s)
}

// text allows what can be shown in one line.
func (c *Checks) text(field, s string, limit int) {
	c.That(len(s) <= limit, field, "has %d bytes, and may have %d", len(s), limit)
	c.That(utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl), field, "has characters that can't be shown")
}

// Bytes checks how many bytes there are.
func (c *Checks) Bytes(field string, b []byte, least, most int) {
	c.That(len(b) >= least && len(b) <= most, field, "has %d bytes, and may have %d to %d", len(b), least, most)
}

// Count checks how many entries there are.
func (c *Checks) Count(field string, n, least, most int) {
	c.That(n >= least && n <= most, field, "has %d entries, and may have %d to %d", n, least, most)
}

// positive is for epochs and generations, which begin at 1.
func (c *Checks) positive(field string, n uint64) {
	c.That(n > 0, field, "is missing")
}

func (c *Checks) id(id ID) {
	c.That(id != ID{}, "call", "is missing")
}

// Unicast allows an address that a host or an endpoint can have.
func (c *Checks) Unicast(field string, a netip.Addr) {
	ok := a.IsValid() && !a.Is4In6() && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
	c.That(ok, field, "%v is no address that a host or an endpoint can have", a)
}

// underlay allows no link-local IPv6 address, since these mean something on one link only.
func (c *Checks) underlay(field string, a netip.AddrPort) {
	c.Unicast(field, a.Addr())
	c.That(!a.Addr().Is6() || !a.Addr().IsLinkLocalUnicast(), field, "%v is an address of one link only", a.Addr())
}

func (c *Checks) mtu(n int) {
	c.That(n >= minMTU && n <= maxMTU, "mtu", "%d is not between %d and %d", n, minMTU, maxMTU)
}

func (c *Checks) span(field string, d time.Duration) {
	c.That(d >= 0 && d <= maxSpan, field, "%v is not between 0 and 100 years", d)
}

func (c *Checks) protocols(r Range) {
	c.That(r.Min >= 1 && r.Min <= r.Max, "protocols", "%d to %d are no range", r.Min, r.Max)
}

// Self checks what a host says of itself.
func (c *Checks) Self(s Self) {
	c.Host("host", s.Host)
	c.text("version", s.Version, 64)
	c.text("boot", s.Boot, 64)
	c.protocols(s.Protocols)
}

func (c *Checks) endpoint(field string, e Endpoint) {
	c.Unicast(field, e.Address)
	c.positive(field+" epoch", e.Epoch)
}

func (c *Checks) owner(o Owner) {
	c.Host("owner", o.Host)
	c.positive("epoch", o.Epoch)
	c.That(o.State >= Running && o.State <= Moving, "state", "%d is not known: the host that says it runs a newer snapctl", o.State)
}

func (c *Checks) offers(offers []Offer) {
	c.Count("offers", len(offers), 1, maxOffers)
	for _, o := range offers {
		c.Name("module", o.Module)
		c.Count("underlay", len(o.Underlay), 1, MaxAddresses)
		for _, a := range o.Underlay {
			c.underlay("underlay", a)
		}
		c.mtu(o.MTU)
		c.Bytes("parameters", o.Parameters, 0, maxParameters)
	}
}

func (c *Checks) channel(ch Channel) {
	c.Name("module", ch.Module)
	c.underlay("underlay", ch.Local)
	c.underlay("underlay", ch.Remote)
	c.That(ch.Local.Addr().Is4() == ch.Remote.Addr().Is4(), "underlay", "addresses %v and %v are of two families", ch.Local.Addr(), ch.Remote.Addr())
	c.mtu(ch.MTU)
	c.Bytes("parameters", ch.Parameters, 0, maxParameters)
	c.positive("generation", ch.Generation)
	if ch.Given != "" {
		c.Name("given module", ch.Given)
	}
}

// routes checks routes between two hosts.
func (c *Checks) routes(routes []Route, self, other string) {
	for _, r := range routes {
		c.Unicast("route", r.Address)
		c.positive("route epoch", r.Epoch)
		c.That(r.Owner == self || r.Owner == other, "route", "%v is of %.80q, which is none of both hosts", r.Address, r.Owner)
	}
}

// Table checks a table that two hosts have in common.
func (c *Checks) Table(t Table, self, other string) {
	c.Name("network", t.Network)
	if t.Channel != nil {
		c.channel(*t.Channel)
	}
	c.Count("routes", len(t.Routes), 0, MaxRoutes)
	c.routes(t.Routes, self, other)
	for i := 1; i < len(t.Routes); i++ {
		before, a := t.Routes[i-1].Address, t.Routes[i].Address
		c.That(before.Less(a), "routes", "%v does not come after %v", a, before)
	}
}

func (c *Checks) connect(r ConnectRequest) {
	c.id(r.ID)
	c.Name("network", r.Network)
	c.endpoint("source", r.Source)
	c.endpoint("wanted", r.Wanted)
	c.That(r.Source.Address.Is4() == r.Wanted.Address.Is4(), "wanted", "%v is of another family than %v", r.Wanted.Address, r.Source.Address)
	c.offers(r.Offers)
	c.positive("generation", r.Generation)
}

func (c *Checks) change(r SwitchRequest) {
	c.id(r.ID)
	c.Name("network", r.Network)
	c.offers(r.Offers)
	c.positive("generation", r.Generation)
	if r.Local.IsValid() || r.Remote.IsValid() {
		c.underlay("local", netip.AddrPortFrom(r.Local, 0))
		c.underlay("remote", netip.AddrPortFrom(r.Remote, 0))
		c.That(r.Local.Is4() == r.Remote.Is4(), "remote", "%v is of another family than %v", r.Remote, r.Local)
	}
}

// Introduce checks a request.
func (c *Checks) Introduce(r IntroduceRequest) {
	c.Name("network", r.Network)
	c.Count("endpoints", len(r.Endpoints), 1, MaxIntroduce)
	for _, e := range r.Endpoints {
		c.endpoint("endpoint", e)
	}
	c.positive("generation", r.Generation)
}

// Disconnect checks a request of one of two hosts to the other.
func (c *Checks) Disconnect(r DisconnectRequest, self, other string) {
	c.id(r.ID)
	c.Name("network", r.Network)
	c.Count("routes", len(r.Routes), 0, maxDisconnect)
	c.routes(r.Routes, self, other)
	c.positive("generation", r.Generation)
}

func (c *Checks) counters(n Counters) {
	c.Name("network", n.Network)
	c.Name("module", n.Module)
	c.span("up for", n.UpFor)
	c.span("idle for", n.IdleFor)
}

// Join checks the request of a host that wants to join.
func (c *Checks) Join(r JoinRequest) {
	c.id(r.ID)
	c.text("token id", r.TokenID, 64)
	c.That(r.TokenID != "", "token id", "is missing")
	c.Bytes("secret", r.Secret, 1, maxSecret)
	c.Host("host", r.Host)
	c.Bytes("csr", r.CSR, 1, maxCSR)
	c.Count("addresses", len(r.Addresses), 1, MaxAddresses)
	for _, a := range r.Addresses {
		c.underlay("address", a.AddrPort)
		c.That(a.Port() != 0, "address", "%v has no port", a.Addr())
	}
	c.text("version", r.Version, 64)
	c.protocols(r.Protocols)
}

func (c *Checks) credentials(cr Credentials) {
	c.Bytes("chain", cr.Chain, 1, maxChain)
	c.Bytes("authorities", cr.Authorities, 0, maxChain)
}

func (c *Checks) joined(j Joined) {
	c.credentials(j.Credentials)
	c.text("installation", j.Installation, 128)
	c.Count("directory", len(j.Directory), 0, maxEndpoints)
	for _, s := range j.Directory {
		c.text("directory", s, maxURL)
		u, err := url.Parse(s)
		c.That(err == nil && u.Host != "", "directory", "%.80q is no URL", s)
	}
}
