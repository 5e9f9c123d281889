package template

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image/inspect"
)

func TestReadImages(t *testing.T) {
	files := []inspect.File{{Name: "/srv/data"}, {Name: "/srv/gone", Removed: true}, {Name: "/dev/pts/3", External: true}, {Name: "pipe:[7]"}}
	python := inspect.Process{PID: 1, Comm: "python3", Memory: &inspect.ProcessMemory{Mappings: []inspect.Mapping{{File: "/usr/bin/python3.13", Prot: "r-xp"}}}}
	got := ReadImages(&inspect.Info{Files: files, Processes: []inspect.Process{python}})
	qt.Check(t, qt.DeepEquals(got, &Images{Open: []string{"/srv/data"}, Repeats: []string{"Python's module random in process 1 (python3)"}}))
	for _, kind := range []inspect.FileKind{inspect.FileInotify, inspect.FileFanotify} {
		files := []inspect.File{{Kind: inspect.FileEpoll}, {Kind: kind}, {Kind: inspect.FilePipe}}
		qt.Check(t, qt.IsTrue(ReadImages(&inspect.Info{Files: files}).Watches))
	}
	// Images that say nothing are known all the same.
	qt.Check(t, qt.DeepEquals(ReadImages(&inspect.Info{}), &Images{Open: []string{}}))
}
