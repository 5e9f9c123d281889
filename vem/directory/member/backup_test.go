package member_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/member"
)

func TestBackupAndRestore(t *testing.T) {
	in, h := alone(t, nil)
	ctx := cluster.Ctx(t)
	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	s := store(t, h, in)
	put(t, s, "a", "1")
	file := filepath.Join(t.TempDir(), "backup")
	b, err := h.Cluster().Backup(ctx, file)
	qt.Assert(t, qt.IsNil(err))
	again, err := member.Verify(file)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(again.SHA256, b.SHA256))
	put(t, s, "a", "2")
	last := put(t, s, "b", "lost")
	qt.Check(t, qt.ErrorIs(h.Restore(ctx, file), member.ErrRunning))
	next := s.Watch(ctx, "", last)

	qt.Assert(t, qt.IsNil(h.Stop(ctx)))
	damaged := filepath.Join(t.TempDir(), "damaged")
	content, err := os.ReadFile(file)
	qt.Assert(t, qt.IsNil(err))
	content[len(content)/2] ^= 1
	qt.Assert(t, qt.IsNil(os.WriteFile(damaged, content, 0o600)))
	qt.Check(t, qt.ErrorIs(h.Restore(ctx, damaged), member.ErrDigest))
	qt.Check(t, qt.ErrorIs(h.Restore(ctx, file+".none"), os.ErrNotExist))

	for range 2 { // also in the place of what was restored before
		qt.Assert(t, qt.IsNil(h.Restore(ctx, file)))
	}
	replaced, err := filepath.Glob(h.Config.DataDir() + ".replaced-*")
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(replaced, 2))
	left, err := filepath.Glob(h.Config.DataDir() + ".*ing")
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(left, 0))

	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	_, err = next()
	qt.Check(t, qt.ErrorIs(err, directory.ErrCompacted))
	entries, revision, err := s.List(ctx, "")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(entries, 1))
	qt.Check(t, qt.Equals(string(entries[0].Value), "1"))
	qt.Check(t, qt.IsTrue(revision > member.RevisionBump))
	qt.Check(t, qt.IsTrue(put(t, s, "b", "new") > revision))
}

func TestRestoreIsBrokenOff(t *testing.T) {
	in, h := alone(t, nil)
	ctx := cluster.Ctx(t)
	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	put(t, store(t, h, in), "a", "1")
	file := filepath.Join(t.TempDir(), "backup")
	_, err := h.Cluster().Backup(ctx, file)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(h.Stop(ctx)))

	// Before the exchange of folders: half of the data, or all of it in the wrong place.
	qt.Assert(t, qt.IsNil(os.MkdirAll(h.Config.DataDir()+".building/member", 0o700)))
	qt.Assert(t, qt.IsNil(h.Restore(ctx, file)))
	// On another machine, where there was no data before.
	qt.Assert(t, qt.IsNil(os.Rename(h.Config.DataDir(), h.Config.ReadyDir())))
	qt.Assert(t, qt.IsNil(os.RemoveAll(filepath.Join(h.Config.Dir, "identity.json"))))
	qt.Check(t, qt.ErrorMatches(h.Start(ctx), ".*its data is gone.*"))
	qt.Assert(t, qt.IsNil(h.Stop(ctx)))
	qt.Assert(t, qt.IsNil(h.Restore(ctx, file)))
	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	qt.Check(t, qt.Equals(string(get(t, store(t, h, in), "a").Value), "1"))
}
