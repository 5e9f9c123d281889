package app

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/journal/journaltest"
)

func TestRecordIsReadAsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	r := Record{
		Identity: Identity{Name: "cache"}, State: State{Status: Running}, Address: Address{Addr4: netip.MustParseAddr("10.77.0.7")},
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
	}
	qt.Assert(t, qt.IsNil(r.Write(dir, journal.Forever)))
	got, err := Read(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got.Status, Running))
	qt.Check(t, qt.Equals(got.Addr4, r.Addr4))
	info, err := os.Stat(filepath.Join(dir, spareFile))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(info.Size(), int64(spareBytes)))

	other := filepath.Join(filepath.Dir(dir), "other")
	qt.Assert(t, qt.IsNil(os.Rename(dir, other)))
	_, err = Read(other)
	qt.Check(t, qt.ErrorMatches(err, `read record: name "cache" in directory .*`))
}

func FuzzReadRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"cache","status":"running","spec":{"process":{"args":["true"]},"root":{"path":"/"}}}`))
	f.Add([]byte(`{"version":1,"name":"..","status":"held"}`))
	f.Add([]byte(`{"version":1,"name":"cache","status":"hibernating","spec":{"process":{"args":["true"]},"root":{"path":"/"}}}`))
	f.Add([]byte(`{"version":1,"name":"cache","status":"","operation":{"kind":"run","step":"begun","doing":"creating"},"spec":{"process":{"args":["true"]},"root":{"path":"/"}}}`))
	f.Add([]byte(`[`))
	dir := filepath.Join(f.TempDir(), "cache")
	qt.Assert(f, qt.IsNil(os.Mkdir(dir, 0o700)))
	f.Fuzz(func(t *testing.T, b []byte) {
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, RecordFile), b, 0o600)))
		r, err := Read(dir)
		if err != nil {
			return
		}
		qt.Assert(t, qt.IsTrue(r.Now().Known() || r.Operation.Open()))
		qt.Assert(t, qt.IsTrue(r.Status.lasting() && r.Name == "cache" && r.Spec.Process != nil && r.Spec.Root != nil))
	})
}

// TestDamagedRecord flips each bit of a record: either what it says is the same, or
// it is not read.
func TestDamagedRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	r := Record{
		Identity: Identity{Name: "cache"}, State: State{Status: Held}, Address: Address{Addr4: netip.MustParseAddr("10.77.0.7")}, Origin: Origin{Number: 4, Generation: "g"},
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
	}
	qt.Assert(t, qt.IsNil(r.Write(dir, journal.Forever)))
	journaltest.FlipAll(t, filepath.Join(dir, RecordFile), func() (any, error) { return Read(dir) })
}
