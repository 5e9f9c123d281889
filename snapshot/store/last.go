package store

import (
	"cmp"
	"os"
	"slices"
	"time"

	"github.com/snapctl/snapctl/snapshot"
)

// newest is how many snapshots [Store.Last] looks at. Who keeps more of other apps has snapshots
// that are stored whole.
const newest = 64

// Last returns the newest snapshot of an app, of the newest ones of all, or "" if none is of it. It
// may be removed at any time. What can't be read is nobody's last snapshot.
func (s *Store) Last(app string) snapshot.Dir {
	names, err := s.Names()
	if err != nil {
		return ""
	}
	type dated struct {
		dir  snapshot.Dir
		when time.Time
	}
	all := make([]dated, 0, len(names))
	for _, name := range names {
		if info, err := os.Lstat(string(s.Dir(name))); err == nil {
			all = append(all, dated{s.Dir(name), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b dated) int { return cmp.Or(b.when.Compare(a.when), cmp.Compare(a.dir, b.dir)) })
	for _, d := range all[:min(len(all), newest)] {
		if m, err := d.dir.Manifest(); err == nil && m.App == app {
			return d.dir
		}
	}
	return ""
}
