package hostfile

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// saved keeps a file on one host, and returns it as its manifest has it there.
func saved(t *testing.T, content string) File {
	t.Helper()
	s, _, w := host(t, content)
	f, err := s.Keep(t.Context(), w)
	qt.Assert(t, qt.IsNil(err))
	return f
}

func put(t *testing.T, s *Store, f File, content string) (File, error) {
	t.Helper()
	path, done := s.Temporary()
	defer done()
	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(content), 0o600)))
	return s.Put(t.Context(), f, path, unix.Timespec{Sec: 1_000_000_000, Nsec: 5})
}

// A file that comes from another host is what it was there.
func TestPut(t *testing.T) {
	f := saved(t, "theirs")
	s, p, _ := host(t, "ours")
	_, ok, err := s.Have(t.Context(), f)
	qt.Assert(t, qt.IsTrue(err == nil && !ok))
	_, ok, err = s.KeepAlike(t.Context(), f, p)
	qt.Assert(t, qt.IsTrue(err == nil && !ok))
	got, err := put(t, s, f, "theirs")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got.ID, f.ID))
	qt.Check(t, qt.Equals(got.Stamp, ""))
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Lstat(s.Path(&got), &st)))
	qt.Check(t, qt.Equals(st.Mode, f.Mode))
	qt.Check(t, qt.Equals(st.Mtim, unix.Timespec{Sec: 1_000_000_000, Nsec: 5}))
	again, ok, err := s.Have(t.Context(), f)
	qt.Assert(t, qt.IsTrue(err == nil && ok))
	qt.Check(t, qt.Equals(again.StoreStamp, got.StoreStamp))
	_, err = put(t, s, f, "theirs") // two transfers at the same time
	qt.Assert(t, qt.IsNil(err))
	s.Unpin([]File{f, f})
	qt.Check(t, qt.Equals(sweep(t, s), 1))
	s.Unpin([]File{f})
	qt.Check(t, qt.Equals(sweep(t, s), 0))
}

func TestPutRefuses(t *testing.T) {
	f := saved(t, "theirs")
	s, _, _ := host(t, "ours")
	other := f
	other.Mode |= 0o4000
	elsewhere := f
	elsewhere.Path = "/../etc/passwd"
	for name, test := range map[string]struct {
		file    File
		content string
	}{"other bytes": {f, "others"}, "another mode than its name says": {other, "theirs"}, "elsewhere": {elsewhere, "theirs"}} {
		t.Run(name, func(t *testing.T) {
			_, err := put(t, s, test.file, test.content)
			qt.Check(t, qt.ErrorIs(err, ErrDamaged))
			qt.Check(t, qt.Equals(sweep(t, s), 0))
		})
	}
}

// A file that the host has itself need not come from another one.
func TestKeepAlike(t *testing.T) {
	f := saved(t, "both")
	s, p, w := host(t, "both")
	f.Name = "file[1:2]"
	got, ok, err := s.KeepAlike(t.Context(), f, p)
	qt.Assert(t, qt.IsTrue(err == nil && ok))
	qt.Check(t, qt.Equals(got.ID, f.ID))
	qt.Check(t, qt.Equals(got.Name, f.Name))
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Lstat(w.Source, &st)))
	qt.Check(t, qt.IsTrue(got.Same(&st)))
	s.Unpin([]File{got})
	qt.Check(t, qt.Equals(sweep(t, s), 0))
	f.Bind = "/usr"
	_, ok, err = s.KeepAlike(t.Context(), f, p)
	qt.Check(t, qt.IsTrue(err == nil && !ok))
}
