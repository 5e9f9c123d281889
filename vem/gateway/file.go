package gateway

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

// State is what a host remembers.
type State struct {
	// Addresses are the IPv4 addresses that the host itself has, by networks.
	Addresses map[string]netip.Addr `json:"addresses,omitempty"`
	// Ports are those of other hosts' apps that lead to these on this host.
	Ports []Published `json:"ports,omitempty"`
	// Gates are the gateways on other hosts, by networks.
	Gates map[string][]Gate `json:"gates,omitempty"`

	Settings
}

func (s State) clone() State {
	s.Addresses, s.Ports, s.Gates, s.Advertise = maps.Clone(s.Addresses), slices.Clone(s.Ports), maps.Clone(s.Gates), slices.Clone(s.Advertise)
	return s
}

// File keeps a State on the disk. Its methods may be called at the same time.
type File struct {
	path string

	changing sync.Mutex // held while the file is written: one change after the other

	mu    sync.Mutex // guards what follows
	state State
}

// Load reads the file at path; if there is none the state is the zero one.
func Load(path string) (*File, error) {
	f := &File{path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f.state)
	}
	if err != nil {
		return nil, fmt.Errorf("read what this host has in its networks: %w", err)
	}
	return f, nil
}

// State returns what is remembered. It is the caller's own.
func (f *File) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.clone()
}

// Change changes the state. When it returns nil the new one is on the disk; if it fails the old one
// stays.
func (f *File) Change(change func(*State)) error {
	f.changing.Lock()
	defer f.changing.Unlock()
	next := f.State()
	change(&next)
	if err := write(f.path, next); err != nil {
		return fmt.Errorf("write what this host has in its networks: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = next
	return nil
}

// write writes aside and renames, so that there is always a whole file.
func write(path string, s State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	aside := path + ".new"
	file, err := os.OpenFile(aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(b, '\n'))
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(aside))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close()) // fsync(2), NOTES
}
