package memory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

// TestAdoptSeveral adopts files some of which have the same content, and some that
// the store has.
func TestAdoptSeveral(t *testing.T) {
	s, dir := store(t)
	known := adopt(t, s, dir, "known")
	paths := []string{file(t, dir, "a"), file(t, dir, "b"), file(t, dir, "a"), file(t, dir, "known"), file(t, dir, "a")}
	files, err := s.AdoptAll(t.Context(), paths)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals([]ID{files[0].ID, files[1].ID, files[3].ID}, []ID{idOf("a"), idOf("b"), known.ID}))
	qt.Assert(t, qt.IsTrue(files[0] == files[2] && files[0] == files[4]))
	for _, path := range paths {
		_, err := os.Lstat(path)
		qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	}
	s.Unpin(files[:4])
	s.Unpin([]File{known})
	qt.Assert(t, qt.DeepEquals(sweep(t, s), []string{string(idOf("a"))})) // pinned thrice
	s.Unpin(files[4:])
	qt.Assert(t, qt.HasLen(sweep(t, s), 0))
}

// TestAdoptMany adopts more files than it opens at the same time.
func TestAdoptMany(t *testing.T) {
	s, dir := store(t)
	paths, want := make([]string, maxOpen+7), make([]ID, maxOpen+7)
	for i := range paths {
		content := fmt.Sprint("file ", i)
		paths[i], want[i] = file(t, dir, content), idOf(content)
	}
	files, err := s.AdoptAll(t.Context(), paths)
	qt.Assert(t, qt.IsNil(err))
	for i, f := range files {
		qt.Assert(t, qt.Equals(f.ID, want[i]))
		qt.Assert(t, qt.IsNil(s.Check(t.Context(), f, ByDigest)))
	}
	s.Unpin(files)
	qt.Assert(t, qt.HasLen(sweep(t, s), 0))
}

// TestAdoptNone leaves nothing pinned if one of several can't be adopted.
func TestAdoptNone(t *testing.T) {
	s, dir := store(t)
	good, missing := file(t, dir, "good"), filepath.Join(dir, "missing")
	_, err := s.AdoptAll(t.Context(), []string{good, missing})
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.AdoptAll(ctx, []string{good})
	qt.Assert(t, qt.ErrorIs(err, context.Canceled))
	b, err := os.ReadFile(good)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b), "good"))
	qt.Assert(t, qt.HasLen(sweep(t, s), 0))
	// What is in the way of one, when another has its place already.
	qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(s.Path(idOf("taken")), "x"), 0o700)))
	_, err = s.AdoptAll(t.Context(), []string{good, file(t, dir, "taken")})
	qt.Assert(t, qt.IsNotNil(err))
	_, err = os.Lstat(s.Path(idOf("good")))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.RemoveAll(s.Path(idOf("taken")))))
	qt.Assert(t, qt.HasLen(sweep(t, s), 0))
}

func TestAdopt(t *testing.T) {
	s, dir := store(t)
	f := adopt(t, s, dir, "some pages")
	qt.Assert(t, qt.Equals(f.ID, idOf("some pages")))
	qt.Assert(t, qt.Equals(f.SizeBytes, 10))
	info, err := os.Lstat(s.Path(f.ID))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(info.Mode(), 0o400))
	for _, depth := range []Depth{ByStamp, ByDigest} {
		qt.Assert(t, qt.IsNil(s.Check(t.Context(), f, depth)))
	}
	// Equal content leaves what is there, for it may be mapped.
	again := adopt(t, s, dir, "some pages")
	qt.Assert(t, qt.Equals(again, f))
	// Pinned twice, it goes when it is unpinned as often.
	s.Unpin([]File{f})
	qt.Assert(t, qt.DeepEquals(sweep(t, s), []string{string(f.ID)}))
	s.Unpin([]File{f})
	qt.Assert(t, qt.DeepEquals(sweep(t, s, f.ID), []string{string(f.ID)}))
	qt.Assert(t, qt.DeepEquals(sweep(t, s), []string{}))
}

// TestAdoptMends has something else in the place of the file.
func TestAdoptMends(t *testing.T) {
	const content = "some pages"
	for name, damage := range map[string]func(t *testing.T, path, elsewhere string){
		"flipped byte": func(t *testing.T, path, _ string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte("some wages"), 0o400)))
		},
		"truncated": func(t *testing.T, path, _ string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.WriteFile(path, nil, 0o400)))
		},
		"link to the content": func(t *testing.T, path, elsewhere string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.WriteFile(elsewhere, []byte(content), 0o600)))
			qt.Assert(t, qt.IsNil(os.Symlink(elsewhere, path)))
		},
		"link to nothing": func(t *testing.T, path, elsewhere string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.Symlink(elsewhere, path)))
		},
		"FIFO": func(t *testing.T, path, _ string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(unix.Mkfifo(path, 0o600)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := store(t)
			elsewhere := filepath.Join(dir, "elsewhere")
			damage(t, s.Path(idOf(content)), elsewhere)
			before, _ := os.ReadFile(elsewhere)
			f := adopt(t, s, dir, content)
			qt.Assert(t, qt.IsNil(s.Check(t.Context(), f, ByDigest)))
			after, _ := os.ReadFile(elsewhere)
			qt.Assert(t, qt.DeepEquals(after, before)) // a link was not followed
		})
	}
}

func TestAdoptFails(t *testing.T) {
	s, dir := store(t)
	_, err := s.Adopt(t.Context(), filepath.Join(dir, "missing"))
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))

	link := filepath.Join(dir, "link")
	qt.Assert(t, qt.IsNil(os.Symlink(file(t, dir, "a"), link)))
	_, err = s.Adopt(t.Context(), link)
	qt.Check(t, qt.ErrorIs(err, unix.ELOOP))

	path := file(t, dir, "b")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Adopt(cancelled, path)
	qt.Check(t, qt.ErrorIs(err, context.Canceled))
	_, err = os.Lstat(path)
	qt.Check(t, qt.IsNil(err))

	// A directory gives way to nothing, but nothing is pinned, and a sweep mends it.
	qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(s.Path(idOf("b")), "sub"), 0o700)))
	_, err = s.Adopt(t.Context(), path)
	qt.Check(t, qt.IsNotNil(err))
	_, err = os.Lstat(path)
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(s.dir.Pinned(), 0))
	qt.Check(t, qt.DeepEquals(sweep(t, s), []string{}))
	_, err = s.Adopt(t.Context(), path)
	qt.Check(t, qt.IsNil(err))
}

// A file that can't be read to its end is not taken for a damaged one: it may be
// mapped, and who maps it can't be saved without it.
func TestAdoptReplacesNothingUnread(t *testing.T) {
	s, dir := store(t)
	f := adopt(t, s, dir, "some pages")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	path := file(t, dir, "some pages")
	qt.Assert(t, qt.ErrorIs(s.settle(cancelled, path, f.ID, true), context.Canceled))
	now, err := s.describe(f.ID)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(now, f))
}

// On a full disk a file is adopted all the same, or is still where it was.
func TestAdoptOnFullDisk(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	qt.Assert(t, qt.IsNil(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,nr_inodes=16")))
	defer func() { qt.Check(t, qt.IsNil(unix.Unmount(dir, 0))) }()
	s, err := Open(filepath.Join(dir, "memory"))
	qt.Assert(t, qt.IsNil(err))
	path := file(t, dir, "some pages")
	for full := 0; ; full++ {
		err := os.WriteFile(filepath.Join(dir, fmt.Sprint("filler", full)), make([]byte, 16<<10), 0o600)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		qt.Assert(t, qt.IsNil(err))
	}
	f, err := s.Adopt(t.Context(), path)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(s.Check(t.Context(), f, ByDigest)))
	s.Unpin([]File{f})
	qt.Assert(t, qt.DeepEquals(sweep(t, s), []string{}))
}

// A volatile file is not known to be on the disk before somebody sees to that; it makes no difference whether it
// was there first, or comes again.
func TestVolatile(t *testing.T) {
	s, dir := store(t)
	files, err := s.AdoptVolatile(t.Context(), []string{file(t, dir, "a"), file(t, dir, "b"), file(t, dir, "c")})
	qt.Assert(t, qt.IsNil(err))
	durable := func() []bool {
		return []bool{s.isDurable(files[0].ID), s.isDurable(files[1].ID), s.isDurable(files[2].ID)}
	}
	qt.Assert(t, qt.DeepEquals(durable(), []bool{false, false, false}))
	qt.Assert(t, qt.IsNil(s.Sync(t.Context(), files[:1])))
	_, err = s.AdoptAll(t.Context(), []string{file(t, dir, "b")})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(durable(), []bool{true, true, false}))
	// Once on the disk it is there, whoever comes with it.
	_, err = s.AdoptVolatile(t.Context(), []string{file(t, dir, "a")})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(durable(), []bool{true, true, false}))
	// But not a new one of the same name.
	s.Unpin(files[:1])
	s.Unpin(files[:1])
	qt.Assert(t, qt.HasLen(sweep(t, s), 2))
	_, err = s.AdoptVolatile(t.Context(), []string{file(t, dir, "a")})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(durable(), []bool{false, true, false}))
	qt.Assert(t, qt.ErrorMatches(s.Sync(t.Context(), []File{{ID: idOf("missing")}}), "bring memory files to the disk: .*"))
}
