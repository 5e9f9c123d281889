package server

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/vem/holder"
)

// examined is what the doctor says of one thing.
func (w *world) examined(t *testing.T, name string) *api.Check {
	t.Helper()
	all, err := w.Doctor(t.Context())
	qt.Assert(t, qt.IsNil(err))
	var found *api.Check
	for _, c := range all {
		if c.GetName() == name {
			found = c
		}
	}
	qt.Assert(t, qt.IsNotNil(found), qt.Commentf("%s is not looked at", name))
	return found
}

// TestDoctorOfSavedApps proves that the doctor names all that could not come back now.
func TestDoctorOfSavedApps(t *testing.T) {
	w := begin(t)
	w.add(t, "cache", app.Held)
	w.add(t, "web", app.Running)
	w.save(t, "s", "web")
	c := w.examined(t, "saved-apps")
	qt.Check(t, qt.Equals(c.GetStatus(), "ok"))
	qt.Check(t, qt.Equals(c.GetFound(), "2 hibernated apps and snapshots find all files that they need"))

	w.obstacles.of = map[string]error{
		"cache": &restore.FileError{Path: "/srv/data", Reason: "/srv/data is gone", Remedy: "put it back"},
		"s":     errors.New("it is damaged"),
		"web":   errors.New("it runs"),
	}
	c = w.examined(t, "saved-apps")
	qt.Check(t, qt.Equals(c.GetStatus(), "warning"))
	qt.Check(t, qt.Equals(c.GetFound(), "app cache: /srv/data is gone; put it back; snapshot s: it is damaged"))
	qt.Check(t, qt.Equals(c.GetRemedy(), "put back what is missing before you wake or restore them; nothing is lost until then"))
}

func TestDoctorOfTheHolder(t *testing.T) {
	w := begin(t)
	w.network.kept = map[string]int{"cache": 3, "web": 4}
	c := w.examined(t, "holder")
	qt.Check(t, qt.Equals(c.GetStatus(), "ok"))
	qt.Check(t, qt.Equals(c.GetFound(), "process 4711, with 7 descriptors of 2 apps"))
	w.network.err = holder.ErrDown
	c = w.examined(t, "holder")
	qt.Check(t, qt.Equals(c.GetStatus(), "failed"))
	qt.Check(t, qt.StringContains(c.GetRemedy(), filepath.Join(w.dir, "holder.log")))
}

// TestDoctorLooksAtThisDaemon proves that the CRIU is looked at that the daemon uses.
func TestDoctorLooksAtThisDaemon(t *testing.T) {
	c := begin(t).examined(t, "criu")
	qt.Check(t, qt.Equals(c.GetStatus(), "failed"))
	qt.Check(t, qt.StringContains(c.GetFound(), "/nowhere/criu"))
}

func TestVersion(t *testing.T) {
	w := begin(t)
	v, err := w.Version(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(v.GetVersion(), "1.2.3"))
	qt.Check(t, qt.Equals(v.GetCriuVersion(), "4.2.1"))
	qt.Check(t, qt.Equals(v.GetCriuPath(), "/nowhere/criu"))
	qt.Check(t, qt.Equals(v.GetStateDir(), w.dir))
	qt.Check(t, qt.Equals(v.GetCgroup(), "/snapctl-test"))
	qt.Check(t, qt.Equals(int(v.GetPid()), os.Getpid()))
	qt.Check(t, qt.Equals(v.GetHolderPid(), 4711))
}
