package member_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/member"
)

func TestWhyAMemberDoesNotStart(t *testing.T) {
	fails := func(t *testing.T, h *cluster.Host, reason member.Reason) {
		t.Helper()
		err := h.Start(cluster.Ctx(t))
		t.Log(err)
		var end *member.EndError
		qt.Assert(t, qt.ErrorAs(err, &end))
		qt.Check(t, qt.Equals(end.Reason, reason))
	}
	served := func(t *testing.T) *cluster.Host {
		t.Helper()
		_, h := alone(t, nil)
		qt.Assert(t, qt.IsNil(h.Start(cluster.Ctx(t))))
		qt.Assert(t, qt.IsNil(h.Stop(cluster.Ctx(t))))
		return h
	}
	t.Run("port in use", func(t *testing.T) {
		_, h := alone(t, nil)
		l, err := net.Listen("tcp", strings.TrimPrefix(h.Config.ListenPeer[0], "http://"))
		qt.Assert(t, qt.IsNil(err))
		fails(t, h, member.ReasonPortInUse)
		qt.Assert(t, qt.IsNil(l.Close()))
		qt.Check(t, qt.IsNil(h.Start(cluster.Ctx(t))))
	})
	t.Run("data gone", func(t *testing.T) {
		h := served(t)
		aside := h.Config.DataDir() + ".aside"
		qt.Assert(t, qt.IsNil(os.Rename(h.Config.DataDir(), aside)))
		fails(t, h, member.ReasonNoData)
		qt.Assert(t, qt.IsNil(os.Rename(aside, h.Config.DataDir())))
		qt.Check(t, qt.IsNil(h.Start(cluster.Ctx(t))))
	})
	t.Run("garbage in the database", func(t *testing.T) {
		h := served(t)
		scribble(t, filepath.Join(h.Config.DataDir(), "member/snap/db"), 0)
		fails(t, h, member.ReasonCorrupt)
	})
	t.Run("garbage in the log", func(t *testing.T) {
		h := served(t)
		logs, err := filepath.Glob(filepath.Join(h.Config.DataDir(), "member/wal/*.wal"))
		qt.Assert(t, qt.IsNil(err))
		scribble(t, logs[0], 64)
		fails(t, h, member.ReasonCorrupt)
	})
	t.Run("program missing", func(t *testing.T) {
		in, h := alone(t, nil)
		qt.Assert(t, qt.IsNil(os.Rename(in.Exe, in.Exe+".aside")))
		qt.Check(t, qt.ErrorIs(h.Start(cluster.Ctx(t)), os.ErrNotExist))
		qt.Assert(t, qt.IsNil(os.Rename(in.Exe+".aside", in.Exe)))
		qt.Check(t, qt.IsNil(h.Start(cluster.Ctx(t))))
	})
}

func scribble(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	qt.Assert(t, qt.IsNil(err))
	_, err = f.WriteAt([]byte(strings.Repeat("garbage ", 4<<10)), at)
	qt.Assert(t, qt.IsNil(errors.Join(err, f.Close())))
}

func TestDiskIsFull(t *testing.T) {
	testenv.Need(t, testenv.Root)
	in := cluster.Prepare(t)
	h := in.Add(t, 1, plain)
	qt.Assert(t, qt.IsNil(os.MkdirAll(h.Config.Dir, 0o700)))
	// Large enough for the 16 MiB that the database's file soon has, mostly holes: they are mapped
	// with MAP_POPULATE, which fills them on a tmpfs.
	qt.Assert(t, qt.IsNil(unix.Mount("tmpfs", h.Config.Dir, "tmpfs", 0, "size=64m")))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Unmount(h.Config.Dir, unix.MNT_DETACH))) })
	h.Open(t, in)
	ctx := cluster.Ctx(t)
	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	s := store(t, h, in)
	put(t, s, "a", "1")

	ballast := filepath.Join(h.Config.Dir, "ballast")
	fill(t, ballast)
	value := make([]byte, 1<<20)
	wrote := 0
	for {
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := s.Commit(short, directory.Txn{Puts: []directory.Put{{Key: fmt.Sprint("big/", wrote), Value: value}}})
		cancel()
		if err != nil {
			qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
			break
		}
		wrote++
	}
	var end *member.EndError
	cluster.Until(t, "the member says that the disk is full", func() bool {
		st, err := h.Status(ctx)
		return err == nil && errors.As(st.Err, &end) && end.Reason == member.ReasonDiskFull
	})
	t.Log(end)
	qt.Check(t, qt.ErrorAs(h.Start(ctx), &end))
	qt.Check(t, qt.Equals(end.Reason, member.ReasonDiskFull))
	qt.Assert(t, qt.IsNil(os.Remove(ballast)))
	qt.Assert(t, qt.IsNil(h.Start(ctx)))
	qt.Check(t, qt.Equals(string(get(t, s, "a").Value), "1"))
	for i := range wrote {
		get(t, s, fmt.Sprint("big/", i))
	}
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	qt.Assert(t, qt.IsNil(err))
	for size := 1 << 20; size >= 4096; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			qt.Assert(t, qt.ErrorIs(err, unix.ENOSPC))
			size /= 2
		}
	}
	qt.Assert(t, qt.IsNil(f.Close()))
}
