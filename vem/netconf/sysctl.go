package netconf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

const sysctlRoot = "/proc/sys/net"

// sensible tells whether a path is one below sysctlRoot.
func sensible(path string) bool {
	return filepath.IsLocal(path) && filepath.Clean(path) == path && path != "."
}

// passing are sysctls that are no settings, or are the device's (mtu, which is kept with
// it) or a secret of the namespace's own.
func passing(path string) bool {
	switch filepath.Base(path) {
	case "flush", "mtu", "stable_secret", "nf_conntrack_count":
		return true
	}
	return false
}

// readSysctls reads all sysctls that can be written, in the calling thread's namespace.
func readSysctls() (all map[string]string, err error) {
	err = netns.Sysctls(func(dir string) (err error) {
		all, err = readSysctlsIn(dir)
		return err
	})
	return all, err
}

func readSysctlsIn(dir string) (map[string]string, error) {
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // of a device that went away
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&0o600 != 0o600 || passing(rel) {
			return nil //nolint:nilerr // it went away
		}
		if b, err := os.ReadFile(path); err == nil {
			all[rel] = strings.TrimSpace(string(b))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read sysctls: %w", err)
	}
	return all, nil
}

// ownSysctls picks those that are otherwise than in a new namespace.
func ownSysctls(have, fresh, standard map[string]string) map[string]string {
	own := make(map[string]string)
	usual := func(path string) (string, bool) {
		if v, ok := standard[path]; ok {
			return v, true
		}
		v, ok := fresh[path]
		return v, ok
	}
	for path, value := range have {
		want, ok := usual(path)
		if !ok { // of a device: as its default is, ipv4/conf/eth0/forwarding and so on
			parts := strings.Split(path, "/")
			if len(parts) != 4 {
				continue
			}
			parts[2] = "default"
			want, ok = usual(strings.Join(parts, "/"))
		}
		if ok && !equal(want, value) {
			own[path] = value
		}
	}
	return own
}

// equal compares values, of which some are several numbers.
func equal(a, b string) bool { return slices.Equal(strings.Fields(a), strings.Fields(b)) }

// applySysctls sets those that differ. Some change others: ip_forward all that it stands
// for, conf/all that of each device. So it is done until nothing differs any more.
func applySysctls(want map[string]string) []error {
	order := slices.Sorted(maps.Keys(want))
	var errs []error
	for range 3 {
		errs = nil
		again := false
		for _, path := range order {
			name := filepath.Join(sysctlRoot, path)
			b, err := os.ReadFile(name)
			if err == nil && equal(string(b), want[path]) {
				continue
			}
			if err == nil {
				again = true
				err = writeSysctl(name, want[path])
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("sysctl net.%s = %s: %w", strings.ReplaceAll(path, "/", "."), want[path], cause(err)))
			}
		}
		if !again {
			break
		}
	}
	return errs
}

func writeSysctl(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// cause is an error without the path, which the reader knows.
func cause(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return err
}
