package template

import (
	"slices"
	"strings"

	"github.com/snapctl/snapctl/snapshot/image/inspect"
)

// Images is what the images of a snapshot say of all clones that are made of it.
type Images struct {
	Open    []string // files of the app that the processes have open
	Repeats []string // what random numbers clones have in common, see [Repeats]
	Watches bool     // a process watches files, by inotify(7) or fanotify(7)
}

// ReadImages tells what images say.
func ReadImages(info *inspect.Info) *Images {
	found := &Images{Open: []string{}, Repeats: slices.Clone(Repeats(info))}
	for _, f := range info.Files {
		found.Watches = found.Watches || f.Kind == inspect.FileInotify || f.Kind == inspect.FileFanotify
		if strings.HasPrefix(f.Name, "/") && !f.Removed && !f.External {
			found.Open = append(found.Open, f.Name)
		}
	}
	return found
}
