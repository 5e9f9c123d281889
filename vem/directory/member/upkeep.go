package member

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/vem/directory"
)

// Upgrade restarts the member with another program, unless it runs that already: the same file,
// not only the same path. The lead goes to another member before.
//
// It returns an error wrapping [ErrQuorum], and changes nothing, if too few of the other members
// answer; so hosts upgrade one after another. A program that does not serve until ctx ends is
// replaced by the one before, if that has another path.
func (m *Member) Upgrade(ctx context.Context, exe string) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.give()
	same, err := m.Runs(exe)
	if err != nil {
		return fmt.Errorf("upgrade member of the directory: %w", err)
	}
	if same {
		return nil
	}
	if out, err := exec.CommandContext(ctx, exe, "version").CombinedOutput(); err != nil {
		return fmt.Errorf("upgrade member of the directory: try %s: %w: %s", exe, err, out)
	}
	if err := m.prepare(ctx); err != nil {
		return fmt.Errorf("upgrade member of the directory: %w", err)
	}
	if err := m.end(ctx); err != nil {
		return err
	}
	before := m.swap(exe)
	err = m.start(ctx)
	if err == nil || before == exe {
		return err
	}
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*endTime)
	defer cancel()
	m.swap(before)
	return errors.Join(fmt.Errorf("upgrade member of the directory to %s: %w", exe, err), m.end(again), m.start(again))
}

// prepare sees that the cluster can do without this member for a moment.
func (m *Member) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*askTime)
	defer cancel()
	own, err := m.ask(ctx)
	if err != nil {
		return err
	}
	peers, err := m.cluster.Members(ctx)
	if err != nil {
		return err
	}
	if err := spare(peers, own.Header.MemberId); err != nil {
		return err
	}
	return m.yield(ctx)
}

// Runs tells whether the process has this program: the same file, not only the same path.
func (m *Member) Runs(exe string) (bool, error) {
	next, err := os.Stat(exe)
	if err != nil {
		return false, err
	}
	p, err := find(m.conf)
	if err != nil {
		return false, err
	}
	if p == nil {
		return false, errors.New("it does not run: start it")
	}
	defer p.close()
	now, err := os.Stat(fmt.Sprintf("/proc/%d/exe", p.pid)) // also of a file that was replaced since
	if err != nil {
		return false, err
	}
	return os.SameFile(now, next), nil
}

func (m *Member) swap(exe string) (before string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, m.exe = m.exe, exe
	return before
}

// Defragment gives the room of deleted entries and forgotten changes back to the disk, which
// etcd's own compaction does not. The member answers nobody meanwhile: some 100 ms for 100 MB.
// [Status] tells when it is worth it: Size much above InUse.
//
// If the directory is full all changes before now are forgotten as well, and it takes entries
// again. If there is still no room the error wraps [directory.ErrFull]: delete entries first.
//
// It returns an error wrapping [ErrQuorum], and changes nothing, if too few of the other members
// answer. Hosts do it one after another.
func (m *Member) Defragment(ctx context.Context) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.give()
	own, err := m.ask(ctx)
	if err != nil {
		return fmt.Errorf("defragment member of the directory: %w", err)
	}
	return m.cluster.Defragment(ctx, own.Header.MemberId)
}

// Defragment is [Member.Defragment] of any member.
func (c *Cluster) Defragment(ctx context.Context, id uint64) error {
	if err := c.defragment(ctx, id); err != nil {
		return fmt.Errorf("defragment member %x of the directory: %w", id, err)
	}
	return nil
}

func (c *Cluster) defragment(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, defragTime)
	defer cancel()
	peers, err := c.Members(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(peers, func(p Peerage) bool { return p.ID == id })
	if at < 0 {
		return errors.New("there is no such member")
	}
	if !peers[at].Answers {
		return errors.New("it does not answer")
	}
	urls := peers[at].ClientURLs
	if err := spare(peers, id); err != nil {
		return err
	}
	full, err := c.noSpace(ctx, id)
	if err != nil {
		return err
	}
	if len(full) > 0 {
		if err := c.compact(ctx); err != nil {
			return err
		}
	}
	one, err := OpenCluster(urls, c.tls)
	if err != nil {
		return err
	}
	defer one.Close() //nolint:errcheck // what it did is done
	if err := one.shrink(ctx); err != nil || len(full) == 0 {
		return err
	}
	for _, a := range full {
		if _, err := c.client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return err
		}
	}
	return nil
}

// shrink defragments the one member that c has, and sees that it has room then.
func (c *Cluster) shrink(ctx context.Context) error {
	asked := pb.NewMaintenanceClient(c.client.ActiveConnection())
	if _, err := asked.Defragment(ctx, &pb.DefragmentRequest{}, grpc.WaitForReady(true)); err != nil {
		return rpctypes.Error(err)
	}
	r, err := asked.Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return rpctypes.Error(err)
	}
	if q := r.DbSizeQuota; q > 0 && r.DbSize > q/10*9 {
		return fmt.Errorf("%w: %d bytes of %d are in use: delete entries", directory.ErrFull, r.DbSizeInUse, q)
	}
	return nil
}

// compact forgets all changes before the last one.
func (c *Cluster) compact(ctx context.Context) error {
	r, err := c.client.Get(ctx, "\x00", clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	_, err = c.client.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil
	}
	return err
}

// noSpace returns the alarms that a member has raised, and those of members that are no more.
func (c *Cluster) noSpace(ctx context.Context, id uint64) ([]*pb.AlarmMember, error) {
	list, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	r, err := c.client.AlarmList(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(r.Alarms, func(a *pb.AlarmMember) bool {
		others := a.MemberID != id && slices.ContainsFunc(list, func(p Peerage) bool { return p.ID == a.MemberID })
		return a.Alarm != pb.AlarmType_NOSPACE || others
	}), nil
}
