package server

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/member"
)

// fakeDirectory is a directory that does what the test says.
type fakeDirectory struct {
	overview member.Overview
	fail     error
	path     string
	host     string
	forced   bool
}

func (f *fakeDirectory) Status(context.Context) (member.Overview, error) {
	return f.overview, f.fail
}

func (f *fakeDirectory) BackUp(_ context.Context, path string) (member.Backup, error) {
	f.path = path
	return member.Backup{Bytes: 7, SHA256: "0f"}, f.fail
}

func (f *fakeDirectory) Restore(_ context.Context, path string, force bool) error {
	f.path, f.forced = path, force
	return f.fail
}

func (f *fakeDirectory) Defragment(_ context.Context, host string) error {
	f.host = host
	return f.fail
}

func TestDirectory(t *testing.T) {
	w := begin(t)
	w.directory.overview = member.Overview{
		Host: "a", URLs: []string{"https://192.0.2.7:7078"}, Process: 17, Ended: errors.New("ended"), Leaderless: errors.New("no leader"),
		Members: []member.Peerage{
			{ID: 255, Name: "a", Answers: true, Leads: true, Lag: 3, Version: "3.7.3", Space: member.Space{Size: 30, InUse: 20, Quota: 100}, Full: true},
			{ID: 1, Name: "b", Learner: true, Corrupt: true, ClientURLs: []string{"https://192.0.2.8:7078"}},
		},
	}
	d, err := w.ShowDirectory(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(d.GetLeaderless(), "no leader"))
	a, b := d.GetMembers()[0], d.GetMembers()[1]
	qt.Check(t, qt.IsTrue(a.GetSelf() && a.GetAnswers() && a.GetLeads() && a.GetFull() && !a.GetLearner()))
	qt.Check(t, qt.Equals(a.GetId(), "ff"))
	qt.Check(t, qt.Equals(a.GetPid(), 17))
	qt.Check(t, qt.Equals(a.GetError(), "ended"))
	qt.Check(t, qt.Equals(a.GetSizeBytes()+a.GetInUseBytes()+a.GetQuotaBytes(), 150))
	qt.Check(t, qt.IsTrue(b.GetLearner() && b.GetCorrupt() && !b.GetSelf()))
	qt.Check(t, qt.DeepEquals(b.GetUrls(), []string{"https://192.0.2.8:7078"}))

	saved, err := w.BackUpDirectory(t.Context(), "/root/a")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(saved.GetSizeBytes(), 7))
	_, err = w.RestoreDirectory(t.Context(), &api.RestoreDirectoryRequest{Path: "/root/b", Force: true})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(w.directory.forced && w.directory.path == "/root/b"))
	_, err = w.DefragmentDirectory(t.Context(), "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(w.directory.host, "b"))
	qt.Assert(t, qt.IsNil(w.LeaveHost(t.Context(), true)))
	qt.Check(t, qt.IsTrue(w.hosts.forced))

	_, err = w.BackUpDirectory(t.Context(), "a")
	qt.Check(t, qt.IsTrue(errdefs.IsInvalidArgument(err)), qt.Commentf("%v", err))
	for _, c := range []struct {
		fail error
		is   func(error) bool
	}{{fs.ErrExist, errdefs.IsAlreadyExists}, {member.ErrDigest, errdefs.IsDataLoss}, {directory.ErrFull, errdefs.IsFailedPrecondition}} {
		w.directory.fail = c.fail
		_, err = w.RestoreDirectory(t.Context(), &api.RestoreDirectoryRequest{Path: "/a"})
		qt.Check(t, qt.IsTrue(c.is(err)), qt.Commentf("%v", err))
	}
}
