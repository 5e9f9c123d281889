package member

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/snapctl/snapctl/vem/directory/etcd"
	"github.com/snapctl/snapctl/vem/pause"
)

// ErrQuorum is that so many members would be missing that the directory could not be changed any
// more.
var ErrQuorum = errors.New("the directory would be without more than half of its members")

// Cluster is the members of the directory together, as any host of the installation reaches them.
// Its methods may be called at the same time.
type Cluster struct {
	client *clientv3.Client
	tls    *tls.Config
}

// OpenCluster returns the members that are at these URLs. It connects to none yet. The caller
// closes it.
func OpenCluster(urls []string, conf *tls.Config) (*Cluster, error) {
	client, err := etcd.Dial(urls, conf)
	if err != nil {
		return nil, fmt.Errorf("open the directory's cluster: %w", err)
	}
	return &Cluster{client: client, tls: conf}, nil
}

// Close lets go of the cluster.
func (c *Cluster) Close() error {
	if err := c.client.Close(); !errors.Is(err, context.Canceled) { // what its own context ended with
		return err
	}
	return nil
}

// Add enters a new member into the cluster, as a learner: it gets all changes, and has no vote, so
// that the directory goes on whether the new member comes or not. It returns what the Cluster of
// the new member's configuration has to be, with Join set. Doing it again changes nothing.
//
// etcd takes no new member until all have been connected for 5 seconds; Add waits for that until
// ctx ends. Then the new member is started on its host, and [Cluster.Promote] gives it its vote.
func (c *Cluster) Add(ctx context.Context, name string, peerURLs []string) ([]Peer, error) {
	for {
		list, err := c.add(ctx, name, peerURLs)
		if err == nil {
			return cluster(list, name, peerURLs), nil
		}
		if !errors.Is(err, rpctypes.ErrUnhealthy) && !errors.Is(err, rpctypes.ErrTooManyLearners) || !pause.For(ctx, 200*time.Millisecond, nil) {
			return nil, fmt.Errorf("add member %s to the directory: %w", name, err)
		}
	}
}

func (c *Cluster) add(ctx context.Context, name string, peerURLs []string) ([]Peerage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	list, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		switch {
		case sameURLs(p.PeerURLs, peerURLs):
			return list, nil
		case p.Name == name:
			return nil, fmt.Errorf("it has one of that name, at %v: remove that first", p.PeerURLs)
		}
	}
	if _, err := c.client.MemberAddAsLearner(ctx, peerURLs); err != nil {
		return nil, err
	}
	return c.list(ctx)
}

// cluster is a list of members as a configuration has it. Those that have not started yet have no
// name; etcd compares the URLs only.
func cluster(list []Peerage, name string, peerURLs []string) []Peer {
	peers := make([]Peer, len(list))
	for i, p := range list {
		peers[i] = Peer{Name: p.Name, URLs: p.PeerURLs}
		switch {
		case sameURLs(p.PeerURLs, peerURLs):
			peers[i].Name = name
		case p.Name == "":
			peers[i].Name = fmt.Sprintf("%x", p.ID)
		}
	}
	return peers
}

// Promote gives a member its vote, as soon as it has caught up. It waits for that until ctx ends.
func (c *Cluster) Promote(ctx context.Context, name string) error {
	for {
		again, err := c.promote(ctx, name)
		if err == nil {
			return nil
		}
		if !again || !pause.For(ctx, 200*time.Millisecond, nil) {
			return fmt.Errorf("give member %s of the directory its vote: %w", name, err)
		}
	}
}

// promote returns whether an error is one that time may heal.
func (c *Cluster) promote(ctx context.Context, name string) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	list, err := c.list(ctx)
	if err != nil {
		return true, err
	}
	at := slices.IndexFunc(list, func(p Peerage) bool { return p.Name == name })
	if at < 0 {
		return true, errors.New("there is no started member of that name")
	}
	if !list[at].Learner {
		return false, nil
	}
	_, err = c.client.MemberPromote(ctx, list[at].ID)
	return errors.Is(err, rpctypes.ErrMemberLearnerNotReady) || ctx.Err() != nil, err
}

// Find returns the member that has a name, or was added with these URLs and has not started yet.
// Returns nil if there is none.
func (c *Cluster) Find(ctx context.Context, name string, peerURLs []string) (*Peerage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	list, err := c.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for member %s of the directory: %w", name, err)
	}
	for _, p := range list {
		if p.Name == name || p.Name == "" && sameURLs(p.PeerURLs, peerURLs) {
			return &p, nil
		}
	}
	return nil, nil
}

// Remove takes a member out of the cluster, for instance that of a dead host. Removing one that is
// not there is no error. It returns an error wrapping [ErrQuorum] if too few of the others answer.
//
// etcd removes none either until the others have been connected for 5 seconds; Remove waits some
// seconds for that.
func (c *Cluster) Remove(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	for {
		err := c.remove(ctx, id)
		if !errors.Is(err, rpctypes.ErrUnhealthy) || !pause.For(ctx, 200*time.Millisecond, nil) {
			return err
		}
	}
}

// removeTime is longer than etcd wants members to have been connected (HealthInterval in etcd's
// server/etcdserver/server.go), on a busy machine, too.
const removeTime = 20 * time.Second

func (c *Cluster) remove(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	peers, err := c.Members(ctx)
	if err != nil {
		return fmt.Errorf("remove member %x of the directory: %w", id, err)
	}
	at := slices.IndexFunc(peers, func(p Peerage) bool { return p.ID == id })
	if at < 0 {
		return nil
	}
	if !peers[at].Learner {
		if err := enough(slices.Delete(peers, at, at+1)); err != nil {
			return fmt.Errorf("remove member %x of the directory: %w", id, err)
		}
	}
	if _, err := c.client.MemberRemove(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("remove member %x of the directory: %w", id, err)
	}
	return nil
}

// aloneTTL is after how many seconds a host that died no longer keeps others waiting.
const aloneTTL = 60

// Alone does something that only one host may do at a time, by a lock with this key in the
// directory. It waits for its turn until ctx ends.
func (c *Cluster) Alone(ctx context.Context, key string, do func(context.Context) error) error {
	s, err := concurrency.NewSession(c.client, concurrency.WithTTL(aloneTTL), concurrency.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("lock %s in the directory: %w", key, err)
	}
	defer s.Close() //nolint:errcheck // what is not given back ends by itself
	if err := concurrency.NewMutex(s, key).Lock(ctx); err != nil {
		return fmt.Errorf("lock %s in the directory: %w", key, err)
	}
	return do(ctx)
}

// enough tells whether more than half of the members that have a vote answer.
func enough(peers []Peerage) error {
	votes, answers := 0, 0
	for _, p := range peers {
		if p.Learner {
			continue
		}
		votes++
		if p.Answers {
			answers++
		}
	}
	if answers <= votes/2 {
		return fmt.Errorf("%w: %d of %d would answer", ErrQuorum, answers, votes)
	}
	return nil
}

// list asks the leader, so that it has what was changed just before.
func (c *Cluster) list(ctx context.Context) ([]Peerage, error) {
	r, err := c.client.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Peerage, len(r.Members))
	for i, e := range r.Members {
		list[i] = Peerage{ID: e.ID, Name: e.Name, PeerURLs: e.PeerURLs, ClientURLs: e.ClientURLs, Learner: e.IsLearner}
	}
	return list, nil
}

func sameURLs(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// spare returns an error if a member must not be restarted now. Where all others answer the
// directory stands still for a moment at most, which nothing that works depends on.
func spare(peers []Peerage, id uint64) error {
	peers = slices.Clone(peers)
	missing := false
	for i, p := range peers {
		if p.ID == id {
			peers[i].Answers = false
		} else if !p.Answers && !p.Learner {
			missing = true
		}
	}
	if !missing {
		return nil
	}
	return enough(peers)
}

// yield moves the lead to another member that has caught up, if this one has it.
func (m *Member) yield(ctx context.Context) error {
	peers, err := m.cluster.Members(ctx)
	if err != nil {
		return err
	}
	own, err := m.ask(ctx)
	if err != nil || own.Leader != own.Header.MemberId {
		return err
	}
	var best *Peerage
	for i, p := range peers {
		if p.ID != own.Leader && p.Answers && !p.Learner && (best == nil || p.Lag < best.Lag) {
			best = &peers[i]
		}
	}
	if best == nil {
		return nil
	}
	_, err = m.client.MoveLeader(ctx, best.ID)
	return err
}
