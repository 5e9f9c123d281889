// Package choice keeps which kind of channels this host was told to have, over the ends of daemons.
package choice

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/snapctl/snapctl/vem/channel"
)

// Auto has channels be of the best kind that both hosts make.
const Auto = "auto"

// Unknown is a kind that a newer release was told to have all channels be of. This one makes no
// channels then: another kind may be what was to be avoided.
const Unknown channel.Kind = -1

// Kind is the kind of a name; zero for [Auto].
func Kind(name string) channel.Kind {
	if name == Auto {
		return 0
	}
	if k, ok := channel.ParseKind(name); ok {
		return k
	}
	return Unknown
}

// Dir is the folder with the choices: file channel has that for all networks, and each file of
// folder channels that for the network of its name. One caller at a time writes them.
type Dir string

func (d Dir) file(network string) string {
	if network == "" {
		return filepath.Join(string(d), "channel")
	}
	return filepath.Join(string(d), "channels", network)
}

// Read returns the names that were written last, by network; that of "" counts for all others, and
// is [Auto] if none was written.
func (d Dir) Read() (map[string]string, error) {
	all := map[string]string{"": Auto}
	networks, err := os.ReadDir(filepath.Join(string(d), "channels"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read which channels networks are to have: %w", err)
	}
	names := []string{""}
	for _, n := range networks {
		if !strings.HasSuffix(n.Name(), aside) {
			names = append(names, n.Name())
		}
	}
	for _, network := range names {
		b, err := os.ReadFile(d.file(network))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read which channels this host is to have: %w", err)
		}
		all[network] = strings.TrimSpace(string(b))
	}
	return all, nil
}

// Given returns the kinds of the names, and logs those that are [Unknown].
func (d Dir) Given(ctx context.Context, log *slog.Logger) (map[string]channel.Kind, error) {
	names, err := d.Read()
	if err != nil {
		return nil, err
	}
	given := make(map[string]channel.Kind)
	for network, name := range names {
		given[network] = Kind(name)
		if given[network] == Unknown {
			log.ErrorContext(ctx, "this host has no channels to others, since this release does not make those that it is to have; snapctl host set --channel gives it others",
				slog.String("channel", name), slog.String("network", network))
		}
	}
	return given, nil
}

// aside is what the name of a file ends in that is not complete. No network has a dot in its name.
const aside = ".new"

// Write writes what a network, or for "" all others, is to have; [Auto] for a network has it be as
// these. The file is written aside and renamed: if that fails the old one is there.
func (d Dir) Write(network, name string) error {
	path := d.file(network)
	err := write(path, name, network != "" && name == Auto)
	if err != nil {
		return errors.Join(fmt.Errorf("write which channels this host is to have: %w", err), os.RemoveAll(path+aside))
	}
	return nil
}

func write(path, name string, remove bool) error {
	if remove {
		return os.RemoveAll(path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(name + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+aside, path)
}
