package checkpoint

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/netns"
)

// HoldOptions say what a hold must know of the app. known are CRIU's names for the app's log,
// and for other files that the app gets back in another way than by a hold.
func (s *Subject) HoldOptions(ns *netns.NS, known []string) collect.Options {
	opt := collect.Options{NS: ns, Known: known}
	for _, m := range s.Box.Spec.Mounts {
		opt.Binds = append(opt.Binds, collect.Bind{Inside: m.Destination, Host: m.Source})
	}
	return opt
}

// logKey is CRIU's name for the app's log, among what is external.
func logKey(list []snapshot.External) string {
	for _, e := range list {
		if e.Kind == snapshot.ExternalLog {
			return e.Key
		}
	}
	return ""
}

// lentFiles names the files of the host that CRIU must be told of.
func lentFiles(ctx context.Context, s *Subject, opt collect.Options) ([]string, error) {
	pids, err := s.cgroup().PIDs()
	if err != nil {
		return nil, err
	}
	found, err := collect.FindLent(ctx, pids, opt)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, o := range found {
		if !slices.Contains(names, o.External) {
			names = append(names, o.External)
		}
	}
	return names, nil
}

// lentToCopy describes the files of the host that a copy of the frozen app must be
// given.
func (l *frozenLook) lentToCopy(ctx context.Context, pids []int) ([]snapshot.External, error) {
	found, err := collect.FindLent(ctx, pids, l.opt)
	if err != nil {
		return nil, err
	}
	list := make([]snapshot.External, len(found))
	for i, o := range found {
		if !slices.Contains(l.announced, o.External) {
			return nil, fmt.Errorf("%s was opened meanwhile: %w", o.External, ErrChanged)
		}
		list[i] = externalFile(o)
	}
	return list, nil
}

func externalFile(o hold.Object) snapshot.External {
	at := o.Owners[0]
	return snapshot.External{
		Kind: snapshot.ExternalFile, Key: o.External, Path: o.Lent.Path, PID: at.PID, FD: at.FD,
		Open: &snapshot.OpenFile{Flags: o.Lent.Flags, Position: o.Lent.Position},
	}
}

// openLent opens a file of the host again, as the app had it.
func (s *Subject) openLent(e snapshot.External) (*os.File, error) {
	f, err := openBound(s.Box.Spec.Mounts, e.Path, e.Open.Flags)
	if err != nil {
		return nil, err
	}
	if e.Open.Position != 0 {
		if _, err := f.Seek(e.Open.Position, 0); err != nil {
			return nil, fmt.Errorf("open %s at its old place: %w", e.Path, err)
		}
	}
	return f, nil
}

// openBound opens a file below one of the app's binds, by the path that the app has
// for it. Links are followed within the bind only: the app may have made them.
func openBound(mounts []specs.Mount, name string, flags int) (*os.File, error) {
	for _, m := range slices.Backward(mounts) { // a later one may be mounted on an earlier one
		rest, ok := strings.CutPrefix(name, path.Clean(m.Destination))
		switch {
		case !ok || name == "" || rest != "" && rest[0] != '/':
			continue
		case rest == "":
			return os.OpenFile(m.Source, flags, 0)
		}
		root, err := os.OpenRoot(m.Source)
		if err != nil {
			return nil, fmt.Errorf("open bind %s: %w", m.Destination, err)
		}
		defer root.Close() //nolint:errcheck // a handle
		f, err := root.OpenFile(rest[1:], flags, 0)
		if err != nil {
			return nil, fmt.Errorf("open file of bind %s (%s on the host): %w", m.Destination, m.Source, err)
		}
		return f, nil
	}
	return nil, fmt.Errorf("open file %q: it is below no bind of the app: %w", name, os.ErrNotExist)
}
