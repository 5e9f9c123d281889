package upkeep

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/member"
	"github.com/snapctl/snapctl/vem/membership"
)

// restoreTime is how long a restore may take at most.
const restoreTime = 5 * time.Minute

// Restore puts a backup in the place of the directory. This host runs a member, which is
// the only one then; those of other hosts are retired, and join again. Unless forced it refuses
// while one of those runs. See [member.Member.Restore].
func (u *Upkeep) Restore(ctx context.Context, path string, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTime)
	defer cancel()
	if err := u.embedded("etcdutl snapshot restore"); err != nil {
		return err
	}
	own, err := u.serves()
	if err != nil {
		return err
	}
	m := u.running()
	if m == nil || len(own) == 0 {
		return &membership.Error{Text: "this host runs no member of the directory", Remedy: "restore it on a host that does"}
	}
	if _, err := member.Verify(path); err != nil {
		return err
	}
	if others := slices.DeleteFunc(u.self().DirectoryURLs(), func(u string) bool { return slices.Contains(own, u) }); len(others) > 0 && !force {
		if err := u.nobodyServes(ctx, others); err != nil {
			return err
		}
	}
	if err := m.Stop(ctx); err != nil {
		return err
	}
	// From now on this host asks its own member alone, also after a crash: the others' is the old cluster.
	u.moved(own)
	if err := u.self().SetDirectory(ctx, own); err != nil {
		return errors.Join(err, m.Start(ctx))
	}
	// Whatever comes of it, a member runs: with the old data, or the new.
	err = m.Restore(ctx, path)
	if err := errors.Join(err, m.Start(ctx)); err != nil {
		return err
	}
	if err := u.correct(ctx); err != nil {
		return err
	}
	return u.announceOnce(ctx)
}

// nobodyServes returns an error if members of other hosts run.
func (u *Upkeep) nobodyServes(ctx context.Context, urls []string) error {
	all, err := member.OpenCluster(urls, u.self().Identity().ClientOfAny(anybody))
	if err != nil {
		return err
	}
	defer all.Close() //nolint:errcheck // only asked
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var run []string
	peers, _ := all.Members(ctx) // that nobody answers is what is wanted
	for _, p := range peers {
		if p.Answers && p.Name != u.self().Identity().Host() {
			run = append(run, p.Name)
		}
	}
	if len(run) == 0 {
		return nil
	}
	return &membership.Error{
		Text:   "the directory runs on other hosts: " + strings.Join(run, ", "),
		Remedy: "if it is to be given up for the backup, restore with --force: their members are retired then, and \"snapctl host init\" has the hosts run new ones",
	}
}

// correct corrects the records of hosts that have a member which the cluster of this host's member does
// not have, if the directory was restored: they are of the cluster before. Without a member here it
// does nothing.
func (u *Upkeep) correct(ctx context.Context) error {
	d, err := u.self().Directory(ctx)
	if err != nil {
		return err
	}
	r, err := d.Restored(ctx)
	own := u.running()
	if err != nil || r.ID == "" || own == nil {
		return err
	}
	members, err := own.Cluster().Members(ctx)
	if err != nil {
		return err
	}
	hosts, err := d.Hosts(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hosts {
		there := slices.ContainsFunc(members, func(p member.Peerage) bool { return p.Name == h.Name })
		if h.Removed || there || len(h.Member) == 0 {
			continue
		}
		h.Member = nil
		_, err := d.PutHost(ctx, h)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// retire gives the member of this host up if the others say that it is none of theirs: the
// directory was restored elsewhere. Whether it was is not known if none of them answers.
func (u *Upkeep) retire(ctx context.Context, hosts []directory.Host) error {
	own, err := u.serves()
	if err != nil || len(own) == 0 {
		return err
	}
	others := urlsOf(slices.DeleteFunc(slices.Clone(hosts), func(h directory.Host) bool { return h.Name == u.self().Identity().Host() }))
	if len(others) == 0 {
		return nil
	}
	all, err := member.OpenCluster(others, u.self().Identity().ClientOfAny(anybody))
	if err != nil {
		return err
	}
	defer all.Close() //nolint:errcheck // only asked
	if m, err := all.Find(ctx, u.self().Identity().Host(), nil); err != nil || m != nil {
		return err
	}
	u.opt.Log.WarnContext(ctx, "the directory goes on without this host's member, which is retired: its data is kept aside")
	return u.retireMember(ctx)
}
