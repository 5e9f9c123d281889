package ownership

import (
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

func copyOf(app, addr string, state State) Copy {
	c := Copy{Endpoint: directory.Endpoint{
		Network: "default", Addr: netip.MustParseAddr(addr), ID: "id-" + app, App: app, Owner: "a", Epoch: 1, State: directory.Running,
	}, State: state}
	c.Allow("boot")
	return c
}

func TestLedger(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "installation")
	l, err := Open(dir)
	qt.Assert(t, qt.IsNil(err))
	web, db := copyOf("web", "10.77.0.7", Owned), copyOf("db", "10.77.0.2", Claiming)
	qt.Check(t, qt.ErrorIs(l.Put(web), fs.ErrNotExist)) // nothing is written for a host that is alone
	qt.Check(t, qt.HasLen(l.All(), 0))
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	qt.Assert(t, qt.IsNil(l.Put(web, db)))
	info, err := os.Stat(l.path)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(l.Put(web)))
	again, err := os.Stat(l.path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(os.SameFile(info, again))) // nothing has changed

	l, err = Open(dir)
	qt.Assert(t, qt.IsNil(err))
	all := l.All()
	qt.Assert(t, qt.HasLen(all, 2))
	qt.Check(t, qt.IsTrue(all[0] == db && all[1] == web))
	c, ok := l.Get(web.Spot())
	qt.Check(t, qt.IsTrue(ok && c.Allowed("boot") && !c.Allowed("another boot")))
	qt.Assert(t, qt.IsNil(l.Drop(db.Spot())))
	_, ok = l.Get(db.Spot())
	qt.Check(t, qt.IsFalse(ok))

	qt.Assert(t, qt.IsNil(os.WriteFile(l.path, []byte("["), 0o600)))
	_, err = Open(dir)
	qt.Check(t, qt.ErrorMatches(err, "read which endpoints this host has: .*"))
}

// A directory that is older than what was seen in it brings no lost copy back.
func TestKnows(t *testing.T) {
	c := copyOf("web", "10.77.0.7", Owned)
	older, newer, other := c.Endpoint, c.Endpoint, c.Endpoint
	newer.Epoch, other.ID = 3, "another life"
	qt.Check(t, qt.IsTrue(c.Knows(older)))
	qt.Check(t, qt.IsFalse(c.Knows(newer)))
	qt.Check(t, qt.IsFalse(c.Knows(other)))
	taken := c.Endpoint
	taken.Owner, taken.Epoch = "b", 3
	c.State, c.Now = Lost, &taken
	qt.Check(t, qt.IsTrue(c.Knows(older)))
	qt.Check(t, qt.IsTrue(c.Knows(newer)))
	newer.Epoch = 4
	qt.Check(t, qt.IsFalse(c.Knows(newer)))
}

// What the directory says decides whether a copy may send.
func TestJudge(t *testing.T) {
	mine := copyOf("web", "10.77.0.7", Owned)
	now, taken := mine.Endpoint, mine.Endpoint
	taken.Owner, taken.Epoch, taken.TakenFrom = "b", 2, "a"
	back := taken
	back.Owner, back.Epoch, back.TakenFrom = "a", 3, "b"
	permit := directory.Permit{ID: now.ID, Epoch: 1, Boot: "second boot"}
	owner := directory.Verdict{Standing: directory.Owner, Permit: permit, Now: &now}
	gone := directory.Verdict{Standing: directory.Lost}
	for name, test := range map[string]struct {
		c       Copy
		v       directory.Verdict
		boot    string
		state   State
		allowed bool
	}{
		"it is the owner's":              {mine, owner, "second boot", Owned, true},
		"its claim has happened":         {copyOf("web", "10.77.0.7", Claiming), owner, "second boot", Owned, true},
		"its claim has not, and it runs": {copyOf("web", "10.77.0.7", Claiming), gone, "boot", Claiming, true},
		"its claim has not":              {copyOf("web", "10.77.0.7", Claiming), gone, "second boot", Claiming, false},
		"it was taken over":              {mine, directory.Verdict{Standing: directory.Lost, Now: &taken}, "boot", Lost, false},
		"it was released":                {mine, gone, "boot", Lost, false},
		"the directory is older":         {mine, directory.Verdict{Standing: directory.Pending, Now: &now}, "boot", Forgotten, true},
		"it is older, after a restart":   {mine, directory.Verdict{Standing: directory.Pending, Now: &now}, "second boot", Owned, false},
		"it was restored":                {mine, directory.Verdict{Standing: directory.Lost, Restored: "one"}, "boot", Forgotten, true},
		"restored, after a restart":      {mine, directory.Verdict{Standing: directory.Lost, Restored: "one"}, "second boot", Owned, false},
		"restored, and taken":            {mine, directory.Verdict{Standing: directory.Lost, Restored: "one", Now: &taken}, "boot", Lost, false},
		"it was taken back": {
			Copy{Endpoint: back, State: Owned},
			directory.Verdict{Standing: directory.Owner, Permit: directory.Permit{ID: now.ID, Epoch: 3, Boot: "boot"}, Now: &back},
			"boot", Owned, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			next := test.c.Judge(test.v, "another id", test.boot)
			qt.Check(t, qt.Equals(next.State, test.state))
			qt.Check(t, qt.Equals(next.Allowed(test.boot), test.allowed))
			qt.Check(t, qt.Equals(next.Kept, name == "it was taken back"))
			qt.Check(t, qt.Equals(next.Endpoint.ID == test.c.Endpoint.ID, next.State != Claiming))
		})
	}
}

// A host that can't reach the directory gives out the addresses that it had before.
func TestRanges(t *testing.T) {
	dir, vem := t.TempDir(), make(map[string][]netip.Prefix)
	told := func(all map[string][]netip.Prefix) func(string, []netip.Prefix) {
		return func(network string, list []netip.Prefix) { all[network] = list }
	}
	r, err := LoadRanges(dir, told(vem))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(vem, 0))
	list := []netip.Prefix{netip.MustParsePrefix("10.77.0.64/26")}
	for range 2 {
		qt.Assert(t, qt.IsNil(r.Set("default", list)))
	}
	later := make(map[string][]netip.Prefix)
	_, err = LoadRanges(dir, told(later))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(later["default"][0], list[0]))

	r.path = filepath.Join(dir, "missing", "ranges.json")
	qt.Check(t, qt.ErrorIs(r.Set("other", list), fs.ErrNotExist))
	qt.Check(t, qt.HasLen(vem["other"], 0))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "ranges.json"), []byte("{"), 0o600)))
	_, err = LoadRanges(dir, told(later))
	qt.Check(t, qt.ErrorMatches(err, "read which addresses this host may give out: .*"))
}
