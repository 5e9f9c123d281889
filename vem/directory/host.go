package directory

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/vem/directory/codec"
)

// Underlay is an address of a host on the real network.
type Underlay struct {
	Addr      netip.Addr `json:"addr"`
	Interface string     `json:"interface"`
	Priority  int        `json:"priority"` // the lower, the sooner it is used
}

// Host is a host of the installation.
type Host struct {
	Name string `json:"name"`
	// Key is the fingerprint of the host's key: a host of that name with another key is another
	// host.
	Key       string     `json:"key"`
	Underlays []Underlay `json:"underlays,omitempty"`
	Port      uint16     `json:"port,omitempty"` // TCP, of its control channel
	// Release is that of the host's snapctl, to be shown. Protocols are the versions of the
	// control protocol that it speaks, from the first to the last.
	Release   string    `json:"release,omitempty"`
	Protocols [2]int    `json:"protocols"`
	JoinedAt  time.Time `json:"joined_at"`
	// Member are the URLs of the directory's member that the host runs, if it does. CA is that the
	// host has the installation's CA: it invites and renews.
	Member []string `json:"member,omitempty"`
	CA     bool     `json:"ca,omitempty"`
	// Removed is a host that may write nothing any more. What it owns can be taken over.
	Removed bool `json:"removed,omitempty"`
	// Cordoned is a host that takes no apps of other hosts, see [Directory.SetCordoned]. An older version of
	// snapctl knows nothing of it.
	Cordoned bool `json:"cordoned,omitempty"`

	// Revision is that of the record. It is not part of it.
	Revision int64 `json:"-"`
}

const maxUnderlays = 64

// Validate implements [codec.Record].
func (h *Host) Validate(name string) error {
	if h.Name != name {
		return fmt.Errorf("it is that of host %q", h.Name)
	}
	if err := codec.CheckName("host", h.Name); err != nil {
		return err
	}
	switch {
	case h.Key == "" || len(h.Key) > 512:
		return errors.New("it has no fingerprint of the host's key")
	case h.Protocols[0] < 0 || h.Protocols[0] > h.Protocols[1]:
		return fmt.Errorf("the protocol versions are %d to %d", h.Protocols[0], h.Protocols[1])
	case max(len(h.Underlays), len(h.Member)) > maxUnderlays:
		return fmt.Errorf("it has %d addresses, and its member %d; at most %d", len(h.Underlays), len(h.Member), maxUnderlays)
	}
	for _, u := range h.Underlays {
		if !u.Addr.IsValid() || len(u.Interface) > 64 {
			return fmt.Errorf("address %q on interface %q", u.Addr, u.Interface)
		}
	}
	return nil
}

// HostError is a host that can't be, or do, what was asked, because of what the directory says
// of it.
type HostError struct {
	Name string
	Why  HostTrouble
}

// HostTrouble is what is wrong with a host.
type HostTrouble int

// What can be wrong with a host.
const (
	HostUnknown HostTrouble = iota // no such host
	HostOther                      // another host has the name
	HostRemoved                    // it was removed from the installation
	HostAlive                      // it is seen, and so is not dead
)

func (e *HostError) Error() string {
	switch e.Why {
	case HostOther:
		return fmt.Sprintf("another host is called %s: give this one another name, or remove that one if it is gone for good", e.Name)
	case HostRemoved:
		return fmt.Sprintf("a host %s was removed from the installation: to join again, a host needs another name", e.Name)
	case HostAlive:
		return fmt.Sprintf("host %s is alive: move its apps, or power it off first", e.Name)
	case HostUnknown:
	}
	return fmt.Sprintf("the installation has no host %s", e.Name)
}

// PutHost enters a host, or changes what the directory says of it; JoinedAt and Cordoned stay what they were.
// It returns a [*HostError] if another host has the name, or if the host was removed.
//
// It may have happened if the error wraps [ErrUnavailable]; putting it again is right then.
func (d *Directory) PutHost(ctx context.Context, h Host) (Host, error) {
	h.Removed = false
	if err := h.Validate(h.Name); err != nil {
		return h, fmt.Errorf("enter host %s: %w", h.Name, err)
	}
	rev, err := d.changeHost(ctx, h.Name, func(now *Host) (Txn, error) {
		switch {
		case now == nil:
		case now.Removed:
			return Txn{}, &HostError{h.Name, HostRemoved}
		case now.Key != h.Key:
			return Txn{}, &HostError{h.Name, HostOther}
		default:
			h.JoinedAt, h.Cordoned = now.JoinedAt, now.Cordoned
		}
		return d.put(d.keys.host(h.Name), &h)
	})
	if err != nil {
		return h, fmt.Errorf("enter host %s: %w", h.Name, err)
	}
	h.Revision = rev
	return h, nil
}

// RemoveHost marks a host as removed, and ends its session: it can write nothing any more. Its
// endpoints, blocks and names stay its own until they are taken over.
func (d *Directory) RemoveHost(ctx context.Context, host string) error {
	_, err := d.changeHost(ctx, host, func(now *Host) (Txn, error) {
		if now == nil {
			return Txn{}, &HostError{host, HostUnknown}
		}
		gone := *now
		gone.Removed = true
		t, err := d.put(d.keys.host(host), &gone)
		t.Deletes = append(t.Deletes, d.keys.session(host))
		return t, err
	})
	if err != nil {
		return fmt.Errorf("remove host %s: %w", host, err)
	}
	return nil
}

// SetCordoned has a host take no apps of other hosts from now on, or take them again. It returns a [*HostError] if
// there is no such host, or if it was removed.
func (d *Directory) SetCordoned(ctx context.Context, host string, cordoned bool) error {
	_, err := d.changeHost(ctx, host, func(now *Host) (Txn, error) {
		switch {
		case now == nil:
			return Txn{}, &HostError{host, HostUnknown}
		case now.Removed:
			return Txn{}, &HostError{host, HostRemoved}
		}
		next := *now
		next.Cordoned = cordoned
		return d.put(d.keys.host(host), &next)
	})
	if err != nil {
		return fmt.Errorf("cordon host %s: %w", host, err)
	}
	return nil
}

// changeHost changes the record of a host by compare-and-swap. change gets nil if there is none.
func (d *Directory) changeHost(ctx context.Context, host string, change func(now *Host) (Txn, error)) (int64, error) {
	for {
		now, err := d.Host(ctx, host)
		was := &now
		if _, none := errors.AsType[*HostError](err); none {
			was, err = nil, nil
		}
		if err != nil {
			return 0, err
		}
		t, err := change(was)
		if err != nil {
			return 0, err
		}
		t.If = append(t.If, Condition{Key: d.keys.host(host), Revision: now.Revision})
		rev, err := d.store.Commit(ctx, t)
		if _, again := errors.AsType[*ConflictError](err); !again {
			if err == nil {
				d.saw(rev)
			}
			return rev, err
		}
	}
}

// put is a transaction that puts one record.
func (d *Directory) put(key string, r codec.Record) (Txn, error) {
	value, err := codec.Encode(r)
	return Txn{Puts: []Put{{Key: key, Value: value}}}, err
}

// Host returns a host, or a [*HostError] if there is none. A host that was removed is returned.
func (d *Directory) Host(ctx context.Context, host string) (Host, error) {
	if err := codec.CheckName("host", host); err != nil {
		return Host{}, err
	}
	var h Host
	e, err := d.get(ctx, d.keys.host(host), &h)
	if err != nil {
		return Host{}, fmt.Errorf("look up host %s: %w", host, err)
	}
	if e.Revision == 0 {
		return Host{}, &HostError{host, HostUnknown}
	}
	h.Revision = e.Revision
	return h, nil
}

// Hosts returns all hosts, also those that were removed, in the order of names.
func (d *Directory) Hosts(ctx context.Context) ([]Host, error) {
	var list []Host
	err := d.records(ctx, KindHost, "", func(e Entry) error {
		var h Host
		err := d.decode(e, &h)
		h.Revision = e.Revision
		list = append(list, h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list hosts: %w", err)
	}
	return list, nil
}

// mark is an entry of which nothing is of interest but that it is there, and its revision.
type mark struct {
	Host string `json:"host"`
}

func (s *mark) Validate(name string) error {
	if s.Host != name {
		return fmt.Errorf("it is that of host %q", s.Host)
	}
	return nil
}

// BeSeen says that the host is alive, until ctx ends, and returns its error. When the host has
// not reached the store for ttl, it is not seen any more. Nothing follows from that, but that
// its endpoints may be taken over if somebody says that it is dead.
func (d *Directory) BeSeen(ctx context.Context, host string, ttl time.Duration) error {
	value, err := codec.Encode(&mark{Host: host})
	if err != nil {
		return err
	}
	if err := d.store.KeepAlive(ctx, d.keys.seen(host), value, ttl); err != nil {
		return fmt.Errorf("be seen as host %s: %w", host, err)
	}
	return nil
}

// Seen returns the names of the hosts that are seen.
func (d *Directory) Seen(ctx context.Context) (map[string]bool, error) {
	alive := make(map[string]bool)
	err := d.records(ctx, KindSeen, "", func(e Entry) error {
		_, host, _ := d.keys.parse(e.Key)
		alive[host] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list hosts that are seen: %w", err)
	}
	return alive, nil
}
