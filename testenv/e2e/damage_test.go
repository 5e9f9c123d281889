package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// damages are what can happen to a file. Each returns false if it can't
// happen to this one.
var damages = map[string]func(t *testing.T, path string, info fs.FileInfo) bool{
	"flipped byte": func(t *testing.T, path string, info fs.FileInfo) bool {
		t.Helper()
		return flip(t, path, info)
	},
	"flipped byte, times put back": func(t *testing.T, path string, info fs.FileInfo) bool {
		t.Helper()
		if !flip(t, path, info) {
			return false
		}
		qt.Assert(t, qt.IsNil(os.Chtimes(path, info.ModTime(), info.ModTime())))
		return true
	},
	"truncated": func(t *testing.T, path string, info fs.FileInfo) bool {
		t.Helper()
		if !info.Mode().IsRegular() || info.Size() == 0 {
			return false
		}
		qt.Assert(t, qt.IsNil(os.Truncate(path, info.Size()-1)))
		return true
	},
	"missing": func(t *testing.T, path string, _ fs.FileInfo) bool {
		t.Helper()
		qt.Assert(t, qt.IsNil(os.RemoveAll(path)))
		return true
	},
	"a link to the same content": func(t *testing.T, path string, _ fs.FileInfo) bool {
		t.Helper()
		moved := filepath.Join(t.TempDir(), "moved")
		qt.Assert(t, qt.IsNil(copyTree(path, moved)))
		qt.Assert(t, qt.IsNil(os.RemoveAll(path)))
		qt.Assert(t, qt.IsNil(os.Symlink(moved, path)))
		return true
	},
}

// flip changes one byte in the middle, in place.
func flip(t *testing.T, path string, info fs.FileInfo) bool {
	t.Helper()
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	qt.Assert(t, qt.IsNil(err))
	var b [1]byte
	_, err = f.ReadAt(b[:], info.Size()/2)
	qt.Assert(t, qt.IsNil(err))
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], info.Size()/2)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(f.Close()))
	return true
}

// forgeries are manifests that match their digest and yet must be refused.
var forgeries = map[string]struct{ old, put, want string }{
	"way out":        {`"path": "images/files.img"`, `"path": "images/../../files.img"`, "leads out of the snapshot"},
	"absolute":       {`"path": "images/files.img"`, `"path": "/etc/passwd"`, "leads out of the snapshot"},
	"itself":         {`"path": "images/files.img"`, `"path": "manifest.json"`, "leads out of the snapshot"},
	"twice":          {`"path": "images/files.img"`, `"path": "images/fs-1.img"`, "twice"},
	"unknown type":   {`"type": "file"`, `"type": "fifo"`, `has type`},
	"other version":  {`"version": 1`, `"version": 99`, "version 99"},
	"mount path":     {`"path": "/dev"`, `"path": "../dev"`, "mount path"},
	"other app":      {`"app": "cache"`, `"app": "../cache"`, "app name"},
	"no JSON at all": {`{`, `[`, "invalid snapshot manifest"},
}

// TestDamagedSnapshotIsRefused damages every file of a snapshot in turn.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(&api.RunRequest{Name: "cache", Endpoint: "10.77.0.7", Args: []string{
		"sh", "-c",
		"mkdir /var/tmp/d && echo data >/var/tmp/d/file && ln -s file /var/tmp/d/link && exec redis-server --save '' --protected-mode no",
	}})
	qt.Assert(t, qt.Equals(w.redis("10.77.0.7").do("PING"), "+PONG"))
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "cache", Name: "s1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	restore := func() error {
		_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s1", As: "copy", Endpoint: "10.77.0.8"}, nil)
		if err != nil {
			qt.Check(t, qt.Equals(w.processes("copy"), 0))
			qt.Check(t, qt.HasLen(must(t)(w.API.List(t.Context())), 1))
		}
		return err
	}
	refuses(t, filepath.Join(w.StateDir(), "snapshots", "s1"), restore)
	qt.Assert(t, qt.IsNil(restore()))
	w.once("copy", api.Status_STATUS_RUNNING)
}

// TestDamagedHibernationIsRefused damages every file that a held app needs,
// and proves that it is held on, and wakes when the file is whole again.
func TestDamagedHibernationIsRefused(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(redisRequest("cache", "10.77.0.7"))
	client := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(client.do("INCR n"), ":1"))
	w.Hibernate("cache")
	log := w.Outside(filepath.Join(host.RunDir, "apps/cache/work/restore.log"))
	refuses(t, filepath.Join(w.StateDir(), "apps", "cache", "hibernation"), func() error {
		_, err := w.API.Wake(t.Context(), &api.WakeRequest{Name: "cache"}, nil)
		if err != nil {
			qt.Check(t, qt.Equals(w.Show("cache").GetStatus(), api.Status_STATUS_HELD))
			qt.Check(t, qt.Equals(w.processes("cache"), 0))
			_, serr := os.Stat(log)
			qt.Check(t, qt.ErrorIs(serr, os.ErrNotExist), qt.Commentf("CRIU was started"))
		}
		return err
	})
	qt.Assert(t, qt.Equals(client.do("INCR n"), ":2"))
	w.Running("cache")
}

// refuses damages the files of a snapshot in every way, one at a time, and
// expects use to fail and to name the file. It mends all of them.
func refuses(t *testing.T, dir string, use func() error) {
	t.Helper()
	whole := filepath.Join(t.TempDir(), "whole")
	qt.Assert(t, qt.IsNil(copyTree(dir, whole)))
	refused := func(t *testing.T, what, want string) {
		t.Helper()
		err := use()
		if err == nil {
			t.Fatalf("%s: accepted", what)
		}
		qt.Check(t, qt.StringContains(err.Error(), want), qt.Commentf("%s", what))
	}
	began, n, large := time.Now(), 0, 0
	for _, name := range files(t, whole) {
		path := filepath.Join(dir, name)
		for what, damage := range damages {
			info, err := os.Lstat(path)
			qt.Assert(t, qt.IsNil(err))
			if !damage(t, path, info) {
				continue
			}
			refused(t, name+": "+what, name)
			mend(t, whole, dir, name)
			n++
			if info.Size() >= 1<<20 {
				large++
			}
		}
	}
	for _, name := range []string{"extra", "images/extra.img", "images/sub/extra"} {
		path := filepath.Join(dir, name)
		qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Dir(path), 0o700)))
		qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte("x"), 0o600)))
		refused(t, name, strings.TrimSuffix(name, "/extra"))
		qt.Assert(t, qt.IsNil(os.RemoveAll(path)))
		qt.Assert(t, qt.IsNil(os.RemoveAll(filepath.Join(dir, "images/sub"))))
	}
	manifest, err := os.ReadFile(filepath.Join(whole, "manifest.json"))
	qt.Assert(t, qt.IsNil(err))
	for what, f := range forgeries {
		forged := bytes.Replace(manifest, []byte(f.old), []byte(f.put), 1)
		qt.Assert(t, qt.IsFalse(bytes.Equal(forged, manifest)), qt.Commentf("%s", what))
		sum := sha256.Sum256(forged)
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "manifest.json"), forged, 0o600)))
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "manifest.sha256"), []byte(hex.EncodeToString(sum[:])), 0o600)))
		refused(t, "manifest with "+what, f.want)
	}
	mend(t, whole, dir, "manifest.json")
	mend(t, whole, dir, "manifest.sha256")
	qt.Check(t, qt.IsTrue(large > 0), qt.Commentf("no file was large enough to have a stamp"))
	t.Logf("%d damages refused in %v, %d of them of large files", n, time.Since(began).Round(time.Millisecond), large)
}

// files lists all below dir, links and directories too.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != dir {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	qt.Assert(t, qt.IsNil(err))
	return names
}

// mend replaces a file, link or directory by the whole one.
func mend(t *testing.T, whole, dir, name string) {
	t.Helper()
	path := filepath.Join(dir, name)
	qt.Assert(t, qt.IsNil(os.RemoveAll(path)))
	qt.Assert(t, qt.IsNil(copyTree(filepath.Join(whole, name), path)))
}

// copyTree copies a file, link or directory with its modes.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(path, from)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			err = os.Mkdir(target, 0o700)
		case info.Mode()&fs.ModeSymlink != 0:
			link, rerr := os.Readlink(path)
			if rerr != nil {
				return rerr
			}
			return os.Symlink(link, target)
		case info.Mode().IsRegular():
			b, rerr := os.ReadFile(path)
			if rerr != nil {
				return rerr
			}
			err = os.WriteFile(target, b, 0o600)
		default:
			return nil // a device or socket of the app's files: it stays
		}
		if err != nil {
			return err
		}
		return os.Chmod(target, info.Mode())
	})
}

func must(t *testing.T) func([]*api.App, error) []*api.App {
	t.Helper()
	return func(apps []*api.App, err error) []*api.App {
		t.Helper()
		qt.Assert(t, qt.IsNil(err))
		return apps
	}
}
