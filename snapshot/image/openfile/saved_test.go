package openfile

import (
	"testing"

	"github.com/go-quicktest/qt"
)

func TestNamesOfOpenFiles(t *testing.T) {
	got := Names([]Saved{{Name: "/srv/data"}, {Name: "/srv/gone", Removed: true}, {Name: "/dev/pts/3", External: true}, {Name: "pipe:[7]"}})
	qt.Check(t, qt.DeepEquals(got, []string{"/srv/data"}))
}
