package member

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/vem/directory/etcd"
)

// Status is how the member is, and its cluster as the member sees it.
type Status struct {
	// PID is that of the process; 0: none runs. Err is then why it ended, nil if nobody has
	// started it.
	PID int
	Err error
	// Answers is whether the process answered. All that follows is 0 if not.
	Answers bool
	Health  Health
	Version string // etcd's
	// Size is how large the data is on disk, InUse how much of it is not free, and Quota when no
	// entries are taken any more. In bytes.
	Size, InUse, Quota int64
	// Full is that the quota was reached: entries can be read and deleted only, until
	// [Member.Defragment] has made room. Corrupt is that the member's data differs from others'.
	Full, Corrupt bool
	// Members are all members of the cluster.
	Members []Peerage
}

// Health is the state of one member.
type Health struct {
	ID     uint64
	Leader uint64 // which member leads, 0: none, so that nothing can be changed
	Index  uint64 // of the last change that it knows to be decided
	Lag    uint64 // how many decided changes it has still to make
}

// Overview is how the directory is, as a host of the installation sees it.
type Overview struct {
	Host    string   // which asked
	URLs    []string // where it is
	Own     bool     // it is an etcd cluster of the operator's own
	Members []Peerage
	// Leaderless is why it is not known whether the directory takes entries: no member leads. Nil
	// if it is known.
	Leaderless error
	// Process is that of the member on this host; 0: none. Ended is why it does not run.
	Process int
	Ended   error
}

// Healthy tells whether the member answers and has a leader.
func (s Status) Healthy() bool { return s.Answers && s.Health.Leader != 0 }

// Peerage is one member of the cluster.
type Peerage struct {
	ID         uint64
	Name       string // empty if it was added and has not started yet
	PeerURLs   []string
	ClientURLs []string
	Learner    bool // it has no vote yet
	Answers    bool // to this host
	Leads      bool
	Lag        uint64 // how many decided changes it has still to make, behind the foremost
	Version    string // etcd's

	Space
	// Full and Corrupt are as in Status. They are told by Cluster.Status alone.
	Full, Corrupt bool
}

// Space is what room the data of a member takes, in bytes.
type Space struct {
	Size  int64 // on the disk
	InUse int64 // of Size, what is not free
	Quota int64 // when no entries are taken any more
}

// Near is which part of the quota may be in use before a member counts as nearly full.
const Near = 0.8

// NearlyFull tells whether the quota will be reached soon, also after a defragmentation.
func (s Space) NearlyFull() bool { return s.Quota > 0 && float64(s.InUse) > Near*float64(s.Quota) }

// peerTime is what each other member gets to say how it is.
const peerTime = 2 * time.Second

// Status asks the process, etcd in it, and the other members. A member that does not answer is no
// error, and costs some seconds.
func (m *Member) Status(ctx context.Context) (Status, error) {
	var s Status
	now, _ := m.now()
	s.Err, s.Quota = now.err, m.conf.QuotaBytes
	p, err := find(m.conf)
	if err != nil {
		return s, fmt.Errorf("status of the directory's member: %w", err)
	}
	if p == nil {
		return s, nil
	}
	s.PID, s.Err = p.pid, nil
	p.close()
	if pid, err := holder(m.conf, lockServes); err != nil || pid == 0 {
		return s, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := m.ask(ctx)
	if err != nil {
		return s, nil // that it does not answer is its status
	}
	s.Answers, s.Version = true, r.Version
	s.Size, s.InUse = r.DbSize, r.DbSizeInUse
	if r.DbSizeQuota > 0 {
		s.Quota = r.DbSizeQuota
	}
	s.Health = health(r)
	s.Members, err = m.cluster.Members(ctx)
	if err != nil {
		return s, fmt.Errorf("status of the directory's members: %w", err)
	}
	alarms, err := m.client.AlarmList(ctx)
	if err != nil {
		return s, nil // without a leader nobody knows
	}
	for _, a := range alarms.Alarms {
		s.Full = s.Full || a.Alarm == pb.AlarmType_NOSPACE
		s.Corrupt = s.Corrupt || a.Alarm == pb.AlarmType_CORRUPT && a.MemberID == s.Health.ID
	}
	return s, nil
}

// ask asks this host's member how it is. A process that was restarted is connected to at once,
// not after the pauses that gRPC makes.
func (m *Member) ask(ctx context.Context) (*pb.StatusResponse, error) {
	conn := m.client.ActiveConnection()
	conn.ResetConnectBackoff()
	return pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
}

func health(r *pb.StatusResponse) Health {
	h := Health{ID: r.Header.MemberId, Leader: r.Leader, Index: r.RaftIndex}
	if r.RaftIndex > r.RaftAppliedIndex {
		h.Lag = r.RaftIndex - r.RaftAppliedIndex
	}
	return h
}

// Members lists the members, as one of them knows them, and asks each how it is. One that does not
// answer is no error, and costs some seconds.
func (c *Cluster) Members(ctx context.Context) ([]Peerage, error) {
	list, err := c.client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return nil, err
	}
	peers := make([]Peerage, len(list.Members))
	states := make([]*pb.StatusResponse, len(peers))
	var wg sync.WaitGroup
	for i, e := range list.Members {
		peers[i] = Peerage{ID: e.ID, Name: e.Name, PeerURLs: e.PeerURLs, ClientURLs: e.ClientURLs, Learner: e.IsLearner}
		wg.Go(func() { states[i] = c.askPeer(ctx, peers[i]) })
	}
	wg.Wait()
	var foremost uint64
	for _, r := range states {
		if r != nil {
			foremost = max(foremost, r.RaftIndex)
		}
	}
	for i, r := range states {
		if r == nil {
			continue
		}
		peers[i].Answers, peers[i].Leads, peers[i].Version = true, r.Leader == peers[i].ID, r.Version
		peers[i].Space = Space{Size: r.DbSize, InUse: r.DbSizeInUse, Quota: r.DbSizeQuota}
		peers[i].Lag = foremost - min(foremost, r.RaftAppliedIndex)
	}
	return peers, nil
}

// Status lists the members, asks each how it is, and whether the directory takes entries. That is
// not known, which is no error, while no member leads.
func (c *Cluster) Status(ctx context.Context) (o Overview, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*askTime)
	defer cancel()
	if o.Members, err = c.Members(ctx); err != nil {
		return o, fmt.Errorf("status of the directory's members: %w", err)
	}
	short, end := context.WithTimeout(ctx, askTime)
	defer end()
	var r *clientv3.AlarmResponse
	if r, o.Leaderless = c.client.AlarmList(short); o.Leaderless != nil {
		return o, nil
	}
	for _, a := range r.Alarms {
		for i := range o.Members {
			if m := &o.Members[i]; m.ID == a.MemberID {
				m.Full = m.Full || a.Alarm == pb.AlarmType_NOSPACE
				m.Corrupt = m.Corrupt || a.Alarm == pb.AlarmType_CORRUPT
			}
		}
	}
	return o, nil
}

// askPeer returns nil if the member does not answer.
func (c *Cluster) askPeer(ctx context.Context, p Peerage) *pb.StatusResponse {
	client, err := etcd.Dial(p.ClientURLs, c.tls)
	if err != nil {
		return nil
	}
	defer client.Close() //nolint:errcheck // only asked
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	// It fails as soon as no connection can be made.
	r, err := pb.NewMaintenanceClient(client.ActiveConnection()).Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(false))
	if err != nil {
		return nil
	}
	return r
}
