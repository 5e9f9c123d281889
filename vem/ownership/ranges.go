package ownership

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Ranges are the blocks of addresses that this host may give out, by networks. They are on the
// disk, so that a host that can't reach the directory when it starts gives out no other ones.
type Ranges struct {
	path string
	told func(network string, list []netip.Prefix)

	mu  sync.Mutex // guards what follows, and the file
	all map[string][]netip.Prefix
}

// LoadRanges tells the VEM what an earlier daemon knew.
func LoadRanges(dir string, told func(network string, list []netip.Prefix)) (*Ranges, error) {
	r := &Ranges{path: rangesPath(dir), told: told, all: make(map[string][]netip.Prefix)}
	b, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r.all)
	}
	if err != nil {
		return nil, fmt.Errorf("read which addresses this host may give out: %w", err)
	}
	for network, list := range r.all {
		told(network, list)
	}
	return r, nil
}

// Forget has this host give out all addresses of its networks again. The file stays: see RemoveRanges.
func (r *Ranges) Forget() {
	r.mu.Lock()
	all := r.all
	r.all = make(map[string][]netip.Prefix)
	r.mu.Unlock()
	for network := range all {
		r.told(network, nil)
	}
}

func rangesPath(dir string) string { return filepath.Join(dir, "ranges.json") }

// RemoveRanges removes the file, so that a later daemon knows of none.
func RemoveRanges(dir string) error {
	if err := os.Remove(rangesPath(dir)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Set tells the VEM of a network's ranges when they are on the disk.
func (r *Ranges) Set(network string, list []netip.Prefix) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(r.all[network], list) {
		return nil
	}
	all := maps.Clone(r.all)
	all[network] = list
	if err := r.write(all); err != nil {
		return err
	}
	r.all = all
	r.told(network, list)
	return nil
}

func (r *Ranges) write(all map[string][]netip.Prefix) error {
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	aside := r.path + ".new"
	f, err := os.OpenFile(aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write which addresses this host may give out: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(aside, r.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write which addresses this host may give out: %w", err), os.Remove(aside))
	}
	return nil
}
