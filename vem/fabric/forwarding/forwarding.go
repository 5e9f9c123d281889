// Package forwarding has a host forward packets for as long as one of its networks needs it.
//
// A file for each network says what each setting was before the first of the networks of a folder
// turned it on. It is written before the change. The last network that needs a setting puts it back.
//
// # IPv6
//
// To turn net.ipv6.conf.all.forwarding on makes a router of the host: of each of its interfaces, which
// from then on take no router advertisements if their accept_ra is 1, and whose default routes of such
// are gone at once (net/ipv6/addrconf.c: addrconf_fixup_forwarding, ipv6_accept_ra). For published
// ports that would be too much. But whether packets are forwarded only the setting of all interfaces
// together says (net/ipv6/ip6_output.c: ip6_forward), and whether one is a router's its own. So a
// [Host] is one which forwards, with interfaces that are as they were.
//
// Needs CAP_NET_ADMIN over the namespace, and a writable /proc/sys.
package forwarding

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// Six says what a network needs of IPv6.
type Six int

const (
	// None is nothing.
	None Six = iota
	// Host has packets be forwarded by a host that is one otherwise.
	Host
	// Router makes a router of the host, for other machines that use it as one.
	Router
)

// Need is what a network needs.
type Need struct {
	Four bool
	Six  Six
}

// Network is a network of a host.
type Network struct {
	NS   *netns.NS // the host's; it stays the caller's
	Dir  string    // the folder of its file
	Name string
	// Device is the network's in the host's namespace: it is no router's but where all are.
	Device string
}

// The settings, below /proc/sys/net.
const (
	four = "ipv4/ip_forward"
	six  = "ipv6/conf/all/forwarding"
)

// settings are those that are to be on.
func (n Need) settings() map[string]bool { return map[string]bool{four: n.Four, six: n.Six != None} }

// Raise turns on what is needed, recording each setting first.
func (n Network) Raise(need Need) error {
	if need == (Need{}) {
		return nil
	}
	lock, err := lockDir(n.Dir)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // a lock
	own, err := readRecord(n.path())
	if err != nil {
		return err
	}
	others, err := n.others()
	if err != nil {
		return err
	}
	for _, path := range []string{four, six} {
		if !need.settings()[path] {
			continue
		}
		if _, ok := own[path]; !ok {
			if own[path], err = n.before(path, others); err != nil {
				return err
			}
			if err := own.write(n.path()); err != nil {
				return err
			}
		}
		if path == six && need.Six == Host {
			err = n.NS.Do(func() error { return forwardAsHost(n.Device, own[six]) })
		} else {
			err = n.NS.Do(func() error { return write(path, "1") })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// forwardAsHost has packets be forwarded, with interfaces as they are. It runs in the namespace, in which
// the setting had a value before any network changed it.
func forwardAsHost(device, before string) error {
	if before == "1" {
		return nil // it is a router
	}
	if netns.HasSysctl(six, "1") {
		if netns.HasSysctl("ipv6/conf/"+device+"/forwarding", "0") {
			return nil
		}
		if err := write(six, "0"); err != nil { // it was made one for a gateway, which is no more
			return err
		}
	}
	interfaces, err := os.ReadDir("/proc/sys/net/ipv6/conf")
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	// Where accept_ra is 2 a default route stays. If this process dies right here advertisements are
	// taken all the same.
	var changed, taking []string
	for _, i := range interfaces {
		dir := "ipv6/conf/" + i.Name() + "/"
		if i.Name() != "all" && netns.HasSysctl(dir+"forwarding", "0") {
			changed = append(changed, dir+"forwarding")
		}
		if netns.HasSysctl(dir+"accept_ra", "1") {
			taking = append(taking, dir+"accept_ra")
		}
	}
	if err := each(taking, "2"); err != nil {
		return err
	}
	err = write(six, "1")
	return errors.Join(err, each(changed, "0"), each(taking, "1"))
}

// each sets settings of interfaces, which may have gone meanwhile.
func each(paths []string, value string) error {
	for _, path := range paths {
		if err := write(path, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Lower puts back what this network no longer needs and no other one does.
func (n Network) Lower(need Need) error {
	own, err := readRecord(n.path())
	if err != nil || len(own) == 0 {
		return err
	}
	lock, err := lockDir(n.Dir)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // a lock
	others, err := n.others()
	if err != nil {
		return err
	}
	for path, value := range own {
		if need.settings()[path] {
			continue
		}
		inUse := false
		for _, r := range others {
			_, has := r[path]
			inUse = inUse || has
		}
		// Writing 1 to ip_forward again would reset conf.*.forwarding for nothing.
		if !inUse && value != "1" {
			if err := n.NS.Do(func() error { return write(path, value) }); err != nil {
				return err
			}
		}
		delete(own, path)
	}
	return own.write(n.path())
}

// before is the value that a setting had before any network changed it.
func (n Network) before(path string, others []record) (string, error) {
	for _, r := range others {
		if v, ok := r[path]; ok {
			return v, nil
		}
	}
	var raw []byte
	err := n.NS.Do(func() (err error) {
		raw, err = os.ReadFile("/proc/sys/net/" + path)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// write sets a setting, within the namespace.
func write(path, value string) error {
	if err := netns.WriteSysctl(path, value); err != nil {
		return fmt.Errorf("set sysctl net/%s to %s: %w", path, value, err)
	}
	return nil
}

// suffix is that of the file of a network.
const suffix = ".forwarding"

// record is what is in it: the values of settings before.
type record map[string]string

func (n Network) path() string { return filepath.Join(n.Dir, n.Name+suffix) }

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

// lockDir keeps other networks of the folder out until the returned file is closed.
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
func (n Network) others() ([]record, error) {
	paths, err := filepath.Glob(filepath.Join(n.Dir, "*"+suffix))
	if err != nil {
		return nil, fmt.Errorf("list forwarding records: %w", err)
	}
	var list []record
	for _, p := range paths {
		if p == n.path() {
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
