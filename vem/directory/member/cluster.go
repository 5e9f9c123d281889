package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/snapctl/snapctl/vem/pause"
)

// ErrQuorum is that so many members would be missing that the directory could not be changed any
// more.
var ErrQuorum = errors.New("the directory would be without more than half of its members")

// Add enters a new member into the cluster, as a learner: it gets all changes, and has no vote, so
// that the directory goes on whether the new member comes or not. It returns what the Cluster of
// the new member's configuration has to be, with Join set. Doing it again changes nothing.
//
// etcd takes no new member until all have been connected for 5 seconds; Add waits for that until
// ctx ends. Then the new member is started on its host, and [Member.Promote] gives it its vote.
func (m *Member) Add(ctx context.Context, name string, peerURLs []string) ([]Peer, error) {
	if err := m.take(ctx); err != nil {
		return nil, err
	}
	defer m.give()
	for {
		list, err := m.add(ctx, name, peerURLs)
		if err == nil {
			return cluster(list, name, peerURLs), nil
		}
		if !errors.Is(err, rpctypes.ErrUnhealthy) || !pause.For(ctx, 200*time.Millisecond, nil) {
			return nil, fmt.Errorf("add member %s to the directory: %w", name, err)
		}
	}
}

func (m *Member) add(ctx context.Context, name string, peerURLs []string) ([]Peerage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	list, err := m.list(ctx)
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
	if _, err := m.client.MemberAddAsLearner(ctx, peerURLs); err != nil {
		return nil, err
	}
	return m.list(ctx)
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
func (m *Member) Promote(ctx context.Context, name string) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.give()
	for {
		again, err := m.promote(ctx, name)
		if err == nil {
			return nil
		}
		if !again || !pause.For(ctx, 200*time.Millisecond, nil) {
			return fmt.Errorf("give member %s of the directory its vote: %w", name, err)
		}
	}
}

// promote returns whether an error is one that time may heal.
func (m *Member) promote(ctx context.Context, name string) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	list, err := m.list(ctx)
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
	_, err = m.client.MemberPromote(ctx, list[at].ID)
	return errors.Is(err, rpctypes.ErrMemberLearnerNotReady) || ctx.Err() != nil, err
}

// Remove takes a member out of the cluster, for instance that of a dead host. Removing one that is
// not there is no error. It returns an error wrapping [ErrQuorum] if too few of the others answer,
// and refuses this host's own member, which another host removes.
func (m *Member) Remove(ctx context.Context, id uint64) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.give()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := m.ask(ctx)
	if err != nil {
		return fmt.Errorf("remove member %x of the directory: %w", id, err)
	}
	if r.Header.MemberId == id {
		return fmt.Errorf("remove member %x of the directory: it is this host's own: remove it from another host", id)
	}
	peers, err := m.members(ctx)
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
	if _, err := m.client.MemberRemove(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("remove member %x of the directory: %w", id, err)
	}
	return nil
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
func (m *Member) list(ctx context.Context) ([]Peerage, error) {
	r, err := m.client.MemberList(ctx)
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

// spare returns an error if this member must not be restarted now. Where all others answer the
// directory stands still for a moment at most, which nothing that works depends on.
func (m *Member) spare(ctx context.Context) error {
	own, err := m.ask(ctx)
	if err != nil {
		return err
	}
	peers, err := m.members(ctx)
	if err != nil {
		return err
	}
	missing := false
	for i, p := range peers {
		if p.ID == own.Header.MemberId {
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
	peers, err := m.members(ctx)
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
