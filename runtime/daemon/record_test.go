package daemon

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/vem/endpoint"
)

// TestLegalSteps proves that every status can be left, but the last, for
// statuses that exist, and that each is shown.
func TestLegalSteps(t *testing.T) {
	for from, steps := range legal {
		if from != Removing {
			qt.Check(t, qt.IsTrue(len(steps) > 0), qt.Commentf("%q", from))
		}
		for _, to := range steps {
			_, ok := legal[to]
			qt.Check(t, qt.IsTrue(ok), qt.Commentf("%q to %q", from, to))
			_, ok = statusCodes[to]
			qt.Check(t, qt.IsTrue(ok), qt.Commentf("%q is not shown", to))
		}
	}
	// Whatever a daemon that died left can be removed.
	for from := range legal {
		if from != "" && from != Removing {
			qt.Check(t, qt.SliceContains(legal[from], Removing), qt.Commentf("%q", from))
		}
	}
	// Once its processes may run again, an app is woken: its images are stale.
	qt.Check(t, qt.Not(qt.SliceContains(legal[Waking], Running)))
}

func TestRecordIsReadAsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	r := record{
		Name: "cache", Status: Running, Addr4: netip.MustParseAddr("10.77.0.7"),
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
	}
	qt.Assert(t, qt.IsNil(r.write(dir, forever)))
	got, err := readRecord(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got.Status, Running))
	qt.Check(t, qt.Equals(got.Addr4, r.Addr4))
	info, err := os.Stat(filepath.Join(dir, spareFile))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(info.Size(), int64(spareBytes)))

	other := filepath.Join(filepath.Dir(dir), "other")
	qt.Assert(t, qt.IsNil(os.Rename(dir, other)))
	_, err = readRecord(other)
	qt.Check(t, qt.ErrorMatches(err, `read record: name "cache" in directory .*`))
}

func FuzzReadRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"cache","status":"running","spec":{"process":{"args":["true"]},"root":{"path":"/"}}}`))
	f.Add([]byte(`{"version":1,"name":"..","status":"held"}`))
	f.Add([]byte(`[`))
	dir := filepath.Join(f.TempDir(), "cache")
	qt.Assert(f, qt.IsNil(os.Mkdir(dir, 0o700)))
	f.Fuzz(func(t *testing.T, b []byte) {
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, recordFile), b, 0o600)))
		r, err := readRecord(dir)
		if err != nil {
			return
		}
		_, known := legal[r.Status]
		qt.Assert(t, qt.IsTrue(known && r.Status != "" && r.Name == "cache" && r.Spec.Process != nil && r.Spec.Root != nil))
	})
}

func TestNextPool(t *testing.T) {
	first := endpoint.Pool{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77:736e:6170::/64")}
	second, err := nextPool(first, 1)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(second.Prefix4, netip.MustParsePrefix("10.78.0.0/16")))
	qt.Check(t, qt.Equals(second.Prefix6, netip.MustParsePrefix("fd77:736e:6170:1::/64")))
	_, err = nextPool(first, 178)
	qt.Check(t, qt.IsNil(err))
	_, err = nextPool(first, 179)
	qt.Check(t, qt.ErrorIs(err, endpoint.ErrExhausted))
}

// TestDamagedRecord flips each bit of records: either what they say is the same, or
// they are not read.
func TestDamagedRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	r := record{
		Name: "cache", Status: Held, Addr4: netip.MustParseAddr("10.77.0.7"), Number: 4, Generation: "g",
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
	}
	qt.Assert(t, qt.IsNil(r.write(dir, forever)))
	app := func() (any, error) { return readRecord(dir) }
	flipAll(t, filepath.Join(dir, recordFile), app)

	d := templatesOnly(t)
	qt.Assert(t, qt.IsNil(d.writeTemplate(templateRecord{Name: "t", Snapshot: "s", Rules: "{}", Pool: 4})))
	flipAll(t, d.templateFile("t"), func() (any, error) {
		clear(d.templates)
		if err := d.loadTemplate("t"); err != nil {
			return nil, err
		}
		return d.templates["t"].rec, nil
	})
}

// flipAll flips each bit of a file and reads it.
func flipAll(t *testing.T, path string, read func() (any, error)) {
	t.Helper()
	whole, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	first, err := read()
	qt.Assert(t, qt.IsNil(err))
	want, refused := encoded(t, first), 0
	for bit := range 8 * len(whole) {
		b := slices.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		qt.Assert(t, qt.IsNil(os.WriteFile(path, b, 0o600)))
		got, err := read()
		if err != nil {
			refused++
			continue
		}
		qt.Assert(t, qt.Equals(encoded(t, got), want), qt.Commentf("bit %d of byte %d", bit%8, bit/8))
	}
	qt.Assert(t, qt.IsTrue(refused > 7*len(whole)/2), qt.Commentf("%d of %d", refused, 8*len(whole)))
	// One of an older snapctl has no digest.
	text, err := unseal(whole)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(len(text) < len(whole)))
	qt.Assert(t, qt.IsNil(os.WriteFile(path, text, 0o600)))
	got, err := read()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(encoded(t, got), want))
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	qt.Assert(t, qt.IsNil(err))
	return string(b)
}
