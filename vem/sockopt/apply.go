package sockopt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
)

// Apply gives a new socket what the saved one had. What can't be set is told for each: a
// copy goes on without it. fd is any descriptor of the socket; devices are those of its
// network namespace, as [Devices] gives them.
func (s *Socket) Apply(fd int, devices map[string]int) []error {
	var errs []error
	options := slices.Clone(s.Options)
	slices.SortStableFunc(options, func(a, b Option) int { return rank(a) - rank(b) })
	for _, o := range options {
		if err := o.apply(fd, devices); err != nil {
			errs = append(errs, err)
		}
	}
	for i := range s.Groups {
		g := &s.Groups[i]
		err := noSuchDevice(g.Device)
		if device := devices[g.Device]; device != 0 {
			err = g.join(fd, device)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("multicast group %s at %s: %w", g.Address, g.Device, err))
		}
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && (st.Uid != s.UID || st.Gid != s.GID) {
		err = unix.Fchown(fd, int(s.UID), int(s.GID))
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("owner %d:%d: %w", s.UID, s.GID, err))
	}
	return errs
}

// Devices lists the devices of the calling thread's network namespace.
func Devices() (map[string]int, error) {
	list, err := netlist.Links(netlist.Here())
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	m := make(map[string]int, len(list))
	for _, l := range list {
		m[l.Attrs().Name] = l.Attrs().Index
	}
	return m, nil
}

// rank is an option's place in the order in which options are set.
func rank(o Option) int {
	if i, ok := places[[2]int{o.Level, o.Name}]; ok {
		return i
	}
	return -1
}

func (o *Option) apply(fd int, devices map[string]int) error {
	k, ok := Find(o.Level, o.Name)
	if !ok {
		return fmt.Errorf("option %d of level %d is not known to this snapctl", o.Name, o.Level)
	}
	value := o.Value
	if k.device != noDevice {
		n := devices[o.Device]
		if n == 0 {
			return &Error{k.Label, noSuchDevice(o.Device)}
		}
		value = make([]byte, 4)
		if k.device == indexOfNet {
			binary.BigEndian.PutUint32(value, uint32(n))
		} else {
			binary.NativeEndian.PutUint32(value, uint32(n))
		}
	}
	var buf [maxValue]byte
	if have, err := Get(fd, k.Level, k.Name, buf[:k.Size]); err == nil && bytes.Equal(have, value) {
		return nil // CRIU knows it too
	}
	if err := Set(fd, k.Level, k.Name, value); err != nil {
		return &Error{k.Label, err}
	}
	return nil
}

// errNoDevice is a device that the copy's network namespace does not have.
var errNoDevice = errors.New("there is no such device")

func noSuchDevice(name string) error { return fmt.Errorf("%w: %s", errNoDevice, name) }
