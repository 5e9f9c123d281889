package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// The host's settings that a fabric may change.
const (
	forward4 = "ipv4/ip_forward"
	forward6 = "ipv6/conf/all/forwarding"
)

// recordSuffix marks the file in Config.Dir that says what a network changed: the
// value that each setting had before the first of the networks of that folder
// turned it on. It is written before the change. The last network that needs a
// setting puts it back.
const recordSuffix = ".forwarding"

type record map[string]string

func (c *Config) recordPath() string { return filepath.Join(c.Dir, c.Network+recordSuffix) }

func readRecord(path string) (record, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read forwarding record: %w", err)
	}
	r := record{}
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("read forwarding record %s: %w", path, err)
	}
	return r, nil
}

// write replaces the record, or removes an empty one.
func (r record) write(path string) error {
	if len(r) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove forwarding record: %w", err)
		}
		return nil
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write forwarding record: %w", err)
	}
	aside := path + ".new"
	if err := os.WriteFile(aside, raw, 0o600); err != nil {
		return fmt.Errorf("write forwarding record: %w", err)
	}
	if err := os.Rename(aside, path); err != nil {
		return fmt.Errorf("write forwarding record: %w", err)
	}
	return nil
}

// lockDir keeps other fabrics of the folder out until the returned file is closed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock network folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock network folder: %w", err), f.Close())
	}
	return f, nil
}

// others returns the records of the folder's other networks.
func (c *Config) others() ([]record, error) {
	paths, err := filepath.Glob(filepath.Join(c.Dir, "*"+recordSuffix))
	if err != nil {
		return nil, fmt.Errorf("list forwarding records: %w", err)
	}
	var list []record
	for _, p := range paths {
		if p == c.recordPath() {
			continue
		}
		r, err := readRecord(p)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// raiseForwarding turns the needed settings on, recording each one first.
func (s *side) raiseForwarding(c Config, need []string) error {
	if len(need) == 0 {
		return nil
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // a lock
	own, err := readRecord(c.recordPath())
	if err != nil {
		return err
	}
	others, err := c.others()
	if err != nil {
		return err
	}
	for _, path := range need {
		if _, ok := own[path]; !ok {
			if own[path], err = s.before(path, others); err != nil {
				return err
			}
			if err := own.write(c.recordPath()); err != nil {
				return err
			}
		}
		if err := s.set(sysctl{path, "1", required}); err != nil {
			return err
		}
	}
	return nil
}

// before is the value that a setting had before any network changed it.
func (s *side) before(path string, others []record) (string, error) {
	for _, r := range others {
		if v, ok := r[path]; ok {
			return v, nil
		}
	}
	return s.get(path)
}

// lowerForwarding puts back what this network no longer needs and no other one
// does.
func (s *side) lowerForwarding(c Config, need []string) error {
	own, err := readRecord(c.recordPath())
	if err != nil || len(own) == 0 {
		return err
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // a lock
	others, err := c.others()
	if err != nil {
		return err
	}
	for path, value := range own {
		if slices.Contains(need, path) {
			continue
		}
		inUse := slices.ContainsFunc(others, func(r record) bool { _, ok := r[path]; return ok })
		// Writing 1 to ip_forward again would reset conf.*.forwarding for nothing.
		if !inUse && value != "1" {
			if err := s.set(sysctl{path, value, required}); err != nil {
				return err
			}
		}
		delete(own, path)
	}
	return own.write(c.recordPath())
}
