package membership

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/trust"
)

// Options are what a [Membership] is made from. All fields are required but Now,
// Compare, Leaving, Left, Step, Refused and Removed.
type Options struct {
	// Dir is the directory for what this host remembers of its installation. It is made, with
	// mode 0700, when the host makes or joins one.
	Dir string
	// Self is what this host says of itself in the directory; name, key and addresses are
	// filled in.
	Self directory.Host
	// Port is that of the control channel, if a Place has none.
	Port        uint16
	Directories Directories
	Gate        Gate
	// Addresses returns those of this host's network devices.
	Addresses func() ([]Address, error)
	// Compare looks for what can't be so if this host joins, and returns the networks that it does
	// not share then, or an error. May be nil.
	Compare func(ctx context.Context, d *directory.Directory, self directory.Host, how OnConflict) (private []string, err error)
	// Leaving is asked before a host is removed: what the installation has there, as a member of
	// the directory, is taken out. Nil: nothing is.
	Leaving func(context.Context, directory.Host) error
	// Left is called when this host has left, before it forgets who it was: what runs here for the
	// installation is ended, and removed. It may be called again, by the next daemon too. Nil:
	// nothing runs.
	Left func(context.Context) error
	// Step is called at each step of what this host does with others, by its name: see testenv/POINTS.md.
	// If it returns an error the step fails. Nil: nothing is called.
	Step func(ctx context.Context, name string) error
	// Refused tells whether the directory refuses this host, as it does one that was removed. Nil: it
	// does not.
	Refused func(context.Context) bool
	// Removed is told that a host was removed here: its connections are to be closed.
	Removed func(host string)
	Log     *slog.Logger
	Now     func() time.Time
}

// Directories gives access to the directory of an installation, as a host of it.
type Directories interface {
	// Make makes a new directory, and returns it with the URLs at which other hosts have it:
	// those that were given, of the operator's own cluster, or if there are none that of a
	// member which it starts beside this daemon. Called again it opens what it has made.
	Make(ctx context.Context, self *trust.Identity, given []string) (s directory.Store, urls []string, err error)
	// Open returns the directory at these URLs. It does not have to be reachable.
	Open(ctx context.Context, self *trust.Identity, urls []string) (directory.Store, error)
}

// Gate is the way to the hosts of the installation that have the CA.
type Gate interface {
	// Join asks a host of the installation to let this host in. That host calls Admit.
	Join(ctx context.Context, a Application) (Welcome, error)
	// Renew asks a host that has the CA to renew this host's certificate. That host calls Renew.
	Renew(ctx context.Context, csr []byte) (chain []byte, err error)
}

// Application is what a host asks to be let in with.
type Application struct {
	At      string      // HOST:PORT of a host of the installation
	TLS     *tls.Config // trusts hosts of that installation only
	Request trust.JoinRequest
	Place   Place // of the host that asks
}

// Welcome is what a host gets that was let in.
type Welcome struct {
	Installation string
	Chain        []byte   // see [trust.Accept]
	Directory    []string // URLs
}

// Membership is what this host is in an installation, if it is in one. Its methods may be called
// at the same time; those that change what this host is wait for each other.
type Membership struct {
	opt  Options
	turn chan struct{} // has room for the one who changes something
	self atomic.Pointer[member]
	came atomic.Pointer[chan struct{}] // closed when this host comes into an installation, or leaves it
}

// member is this host as one of an installation. Only its directory is made later.
type member struct {
	record   record
	identity *trust.Identity
	store    directory.Store
	invites  *invites // nil: this host does not have the CA
	runs     []string // the URLs of a member of the directory that this host began with, if it did

	opened atomic.Pointer[directory.Directory]
}

// Open returns what this host is, from what an earlier daemon has written. The directory does not
// have to be reachable. The caller closes it.
func Open(ctx context.Context, o Options) (*Membership, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	m := &Membership{opt: o, turn: make(chan struct{}, 1)}
	came := make(chan struct{})
	m.came.Store(&came)
	r, err := m.load()
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.Phase == joining {
		return m, nil
	}
	if err == nil {
		if err = m.resume(ctx, r); err != nil && r.Phase == left { // it has forgotten the most of it
			err = m.forget(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the membership of this host: %w", err)
	}
	return m, nil
}

// resume opens what a member has.
func (m *Membership) resume(ctx context.Context, r record) error {
	identity, err := trust.Open(m.hostDir(), m.opt.Now)
	if err != nil {
		return err
	}
	s := &member{record: r, identity: identity}
	authority, err := trust.OpenAuthority(m.caDir(), trust.AuthorityOptions{Now: m.opt.Now})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.store, err = m.opt.Directories.Open(ctx, identity, r.Directory); err != nil {
		return err
	}
	if authority != nil {
		s.invites = newInvites(authority, s, m.opt.Now)
	}
	m.arrive(s)
	return nil
}

// arrive makes this host a member.
func (m *Membership) arrive(s *member) {
	m.self.Store(s)
	m.tell()
}

// tell tells who waits that this host has come into an installation, or left it.
func (m *Membership) tell() {
	next := make(chan struct{})
	close(*m.came.Swap(&next))
}

// Close lets go of the directory. Nothing else ends.
func (m *Membership) Close() error {
	s := m.self.Load()
	if s == nil {
		return nil
	}
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	return errors.Join(m.remember(), s.store.Close())
}

// Identity returns the certificate and key of this host, or nil if it is in no installation.
func (m *Membership) Identity() *trust.Identity {
	if s := m.self.Load(); s != nil {
		return s.identity
	}
	return nil
}

// Member returns an *[Error] if this host is in no installation.
func (m *Membership) Member() error {
	_, err := m.member()
	return err
}

// DirectoryURLs are those of the directory's members; none if this host is in no installation.
func (m *Membership) DirectoryURLs() []string {
	if s := m.self.Load(); s != nil {
		return slices.Clone(s.record.Directory)
	}
	return nil
}

// Directory returns the directory of the installation. Returns an *[Error] if this host is in no
// installation, and what directory.Open returns.
func (m *Membership) Directory(ctx context.Context) (*directory.Directory, error) {
	s, err := m.member()
	if err != nil {
		return nil, err
	}
	return s.directory(ctx)
}

func (s *member) directory(ctx context.Context) (*directory.Directory, error) {
	if d := s.opened.Load(); d != nil {
		return d, nil
	}
	d, err := directory.Open(ctx, s.store, string(s.identity.Installation()), s.record.Known)
	if err != nil {
		return nil, err
	}
	if !s.opened.CompareAndSwap(nil, d) {
		return s.opened.Load(), nil
	}
	return d, nil
}

// member returns what this host is, or an *[Error].
func (m *Membership) member() (*member, error) {
	if s := m.self.Load(); s != nil {
		return s, nil
	}
	return nil, Alone()
}

// Alone is the error of a host that is in no installation.
func Alone() *Error {
	return &Error{
		Text:   "this host is in no installation",
		Remedy: "make one with \"snapctl host init\", or join one with \"snapctl host join\"",
	}
}

// begin waits for the turn of a host that comes to an installation. done gives it back.
func (m *Membership) begin(ctx context.Context) (done func(), err error) {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("another operation on the membership of this host is at work: %w", ctx.Err())
	}
	done = func() { <-m.turn }
	if s := m.self.Load(); s != nil {
		done()
		return nil, &Error{
			Text:   fmt.Sprintf("this host is host %s of installation %s already", s.identity.Host(), s.identity.Installation()),
			Remedy: "to have it in another installation, remove it from this one first, on another host",
		}
	}
	return done, nil
}

// Place is what this host said of itself when it came into its installation; not ok if it is in
// none.
func (m *Membership) Place() (_ Place, ok bool) {
	s := m.self.Load()
	if s == nil {
		return Place{}, false
	}
	return s.record.Place.place(), true
}

// Private are the networks of this host that it does not share with other hosts.
func (m *Membership) Private() []string {
	s := m.self.Load()
	if s == nil {
		return nil
	}
	return slices.Clone(s.record.Private)
}

// Complete fills in what a host leaves out that is on its way into an installation.
func (m *Membership) Complete(p Place) (Place, error) {
	if p.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return p, fmt.Errorf("read the name of this host: %w", err)
		}
		name, _, _ = strings.Cut(name, ".")
		p.Name = strings.ToLower(name)
	}
	if err := trust.CheckHost(p.Name); err != nil {
		return p, &Error{Text: err.Error(), Remedy: "give it a name with --name"}
	}
	if p.Port == 0 {
		p.Port = m.opt.Port
	}
	if len(p.Addresses) == 0 {
		var err error
		if p.Addresses, err = m.opt.Addresses(); err != nil {
			return p, fmt.Errorf("look for addresses of this host: %w", err)
		}
	}
	if len(p.Addresses) == 0 {
		return p, &Error{Text: "this host has no address that other hosts could reach", Remedy: "give it one with --address"}
	}
	return p, nil
}

// entry is what the directory says of this host.
func (m *Membership) entry(p Place, s *member) directory.Host {
	h := m.opt.Self
	h.Name, h.Key, h.JoinedAt = p.Name, string(s.identity.Member()), m.opt.Now().UTC().Truncate(time.Second)
	h.Port, h.Member, h.CA, h.Underlays = p.Port, s.runs, s.invites != nil, Underlays(p.Addresses)
	return h
}

func (m *Membership) hostDir() string { return filepath.Join(m.opt.Dir, "host") }
func (m *Membership) caDir() string   { return filepath.Join(m.opt.Dir, "ca") }

// ports returns where the control channel of a host is.
func ports(p Place) (list []netip.AddrPort) {
	for _, a := range p.Addresses {
		list = append(list, netip.AddrPortFrom(a.Addr, p.Port))
	}
	return list
}
