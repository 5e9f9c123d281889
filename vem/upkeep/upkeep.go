// Package upkeep is what a host does for the directory of its installation: it opens the directory,
// runs a member of its etcd cluster beside the daemon if it is to, and looks after all of it: status,
// backup, restore, defragmentation, upgrade.
//
// A host serves an installation that has the CA and, unless the directory is a cluster of the
// operator's own, runs a member: the one that has made the installation, and each on which "host init"
// was run after it had joined. Which hosts do is in their records in the directory: these are written
// when it is so, and corrected by whoever finds it otherwise.
package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/directory/member"
	"github.com/snapctl/snapctl/vem/membership"
)

// Options are what an [Upkeep] works with. All are required.
type Options struct {
	Dir       string // of the member on this host; it is made when that is needed
	Exe       string // the program snapctl-directory
	Version   string // of snapctl
	Protocols [2]int // of the control channel: the oldest and the newest that this host speaks
	// Place is where this host is.
	Place func() membership.Place
	// Membership is that of this host. It is nil until it is open, and then no method is called that
	// needs it.
	Membership func() *membership.Membership
	// Hosts are those that this host knows of, without asking the directory.
	Hosts func() []directory.Host
	// Peers are the connections to other hosts; nil: this host takes no part in its installation yet.
	Peers func() *control.Peers
	Log   *slog.Logger
}

// Upkeep looks after the directory. It is a [membership.Directories]. Its methods may be called at
// the same time.
type Upkeep struct {
	opt Options

	mu     sync.Mutex     // guards what follows
	member *member.Member // nil: none runs here
	store  *etcd.Store    // the one in use; nil: none yet
	urls   []string       // where the directory is now; none: as it was when the store is opened
}

var _ membership.Directories = (*Upkeep)(nil)

// New returns what looks after the directory. It does nothing yet. The caller closes it.
func New(opt Options) *Upkeep { return &Upkeep{opt: opt} }

// self is this host's membership.
func (u *Upkeep) self() *membership.Membership { return u.opt.Membership() }

// cluster is the directory's members, as this host last knew where they are. The caller closes it.
func (u *Upkeep) cluster() (*member.Cluster, error) {
	self := u.self().Identity()
	if self == nil {
		return nil, membership.Alone()
	}
	return member.OpenCluster(u.self().DirectoryURLs(), self.ClientOfAny(anybody))
}

// embedded returns an error if the directory is the operator's own cluster, which is looked after
// by what came with it.
func (u *Upkeep) embedded(instead string) error {
	if u.self().Identity() == nil || u.embeds() {
		return nil
	}
	return &membership.Error{
		Text:   "the directory of this installation is an etcd cluster of your own",
		Remedy: fmt.Sprintf("use etcd's own tools: %s --endpoints %s", instead, strings.Join(u.self().DirectoryURLs(), ",")),
	}
}

// embeds tells whether hosts of the installation run the directory, as far as this host knows.
func (u *Upkeep) embeds() bool {
	if len(urlsOf(u.opt.Hosts())) > 0 {
		return true
	}
	at, err := u.serves()
	return err != nil || len(at) > 0
}

// Status asks the directory's members how they are. One that does not answer is no error.
func (u *Upkeep) Status(ctx context.Context) (member.Overview, error) {
	all, err := u.cluster()
	if err != nil {
		return member.Overview{}, err
	}
	defer all.Close() //nolint:errcheck // only asked
	var own member.Status
	if m := u.running(); m != nil {
		if own, err = m.Status(ctx); err != nil {
			return member.Overview{}, err
		}
	}
	o, err := all.Status(ctx)
	if err != nil {
		return o, errors.Join(fmt.Errorf("%w: %w", directory.ErrUnavailable, err), own.Err)
	}
	o.URLs, o.Host, o.Own = u.self().DirectoryURLs(), u.self().Identity().Host(), !u.embeds()
	o.Process, o.Ended = own.PID, own.Err
	return o, nil
}

// BackUp writes all of the directory to a file that is not there yet.
func (u *Upkeep) BackUp(ctx context.Context, path string) (member.Backup, error) {
	if err := u.embedded("etcdctl snapshot save"); err != nil {
		return member.Backup{}, err
	}
	all, err := u.cluster()
	if err != nil {
		return member.Backup{}, err
	}
	defer all.Close() //nolint:errcheck // only read from
	return all.Backup(ctx, path)
}

// Defragment gives unused room of one member back to the disk, see [member.Cluster.Defragment].
func (u *Upkeep) Defragment(ctx context.Context, host string) error {
	if err := u.embedded("etcdctl defrag"); err != nil {
		return err
	}
	all, err := u.cluster()
	if err != nil {
		return err
	}
	defer all.Close() //nolint:errcheck // what it did is done
	m, err := all.Find(ctx, host, nil)
	switch {
	case err != nil:
		return err
	case m == nil:
		return &membership.Error{Text: fmt.Sprintf("host %s runs no member of the directory", host), Remedy: "snapctl host directory status lists those that do"}
	}
	return all.Defragment(ctx, m.ID)
}
