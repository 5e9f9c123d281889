package directory

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/snapctl/snapctl/vem/directory/codec"
)

// State is what an endpoint is.
type State string

// The states of an endpoint.
const (
	Running State = "running" // its app runs
	Held    State = "held"    // its sockets are held while the app has no processes
	Moving  State = "moving"  // its owner has stopped its packets, to move it to Target
)

// Endpoint is the record of an endpoint: who owns it.
type Endpoint struct {
	Network string     `json:"network"`
	Addr    netip.Addr `json:"addr"` // IPv4; the IPv6 address goes with it
	// ID is random, and that of the endpoint from Claim to Release: another app that has the same
	// address and name later has another one.
	ID    string `json:"id"`
	App   string `json:"app"` // one app of this name in the installation
	Owner string `json:"owner"`
	// Epoch grows by one whenever the owner changes, from 1 on.
	Epoch  uint64 `json:"epoch"`
	State  State  `json:"state"`
	Target string `json:"target,omitempty"` // host, of an endpoint that is moving
	// TakenFrom is the host that had the endpoint before, if it was dead and the endpoint was
	// taken over from it.
	TakenFrom string `json:"taken_from,omitempty"`
	Ports     string `json:"ports,omitempty"` // published by every host, or what a host is a gateway for; package gateway reads it

	// Revision is that of the record. It is not part of it.
	Revision int64 `json:"-"`
}

// Validate implements [codec.Record].
func (e *Endpoint) Validate(name string) error {
	network, addr, _ := strings.Cut(name, "/")
	if e.Network != network || e.Addr.String() != addr || !e.Addr.Is4() {
		return fmt.Errorf("it is that of endpoint %s of network %q", e.Addr, e.Network)
	}
	err := errors.Join(codec.CheckName("network", e.Network), codec.CheckName("host", e.Owner))
	if !e.OfHost() {
		err = errors.Join(err, codec.CheckName("app", e.App))
	}
	if err = errors.Join(err, codec.CheckName("endpoint", e.ID)); err != nil {
		return err
	}
	if e.TakenFrom != "" {
		err = codec.CheckName("host", e.TakenFrom)
	}
	switch {
	case e.Epoch == 0:
		return errors.New("it has epoch 0")
	case len(e.Ports) > 1<<10:
		return fmt.Errorf("its published ports take %d bytes", len(e.Ports))
	case e.State == Moving:
		return errors.Join(err, codec.CheckName("host", e.Target))
	case e.State != Running && e.State != Held:
		return fmt.Errorf("it is %q", e.State)
	case e.Target != "":
		return fmt.Errorf("it is %s, and moving to %q", e.State, e.Target)
	}
	return err
}

// HostApp is the App of the endpoint that a host itself has in a network: no app is called so.
func HostApp(host, network string) string { return "host:" + host + ":" + network }

// OfHost tells whether the endpoint is that of a host itself. It is never another host's.
func (e Endpoint) OfHost() bool { return e.App == HostApp(e.Owner, e.Network) }

func (e Endpoint) String() string { return fmt.Sprintf("%s of network %s", e.Addr, e.Network) }

// appRecord says which endpoint an app of that name has.
type appRecord struct {
	Network string     `json:"network"`
	Addr    netip.Addr `json:"addr"`
	ID      string     `json:"id"`
}

func (r *appRecord) Validate(string) error {
	if !r.Addr.Is4() {
		return fmt.Errorf("it has address %q", r.Addr)
	}
	return errors.Join(codec.CheckName("network", r.Network), codec.CheckName("endpoint", r.ID))
}

// TakenError is an address that another endpoint has.
type TakenError struct {
	There Endpoint
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("app %s on host %s has endpoint %s", e.There.App, e.There.Owner, e.There)
}

// NameError is a name that another app has.
type NameError struct {
	App     string
	Network string // of the other app's endpoint, as Addr
	Addr    netip.Addr
}

func (e *NameError) Error() string {
	return fmt.Sprintf("there is an app %s in this installation, with endpoint %s of network %s: choose another name", e.App, e.Addr, e.Network)
}

// OwnerError is an endpoint that a host does not own, or not with that epoch any more.
type OwnerError struct {
	Mine Endpoint  // as the host believed
	Now  *Endpoint // nil: there is none any more
}

func (e *OwnerError) Error() string {
	mine := fmt.Sprintf("host %s does not own endpoint %s with epoch %d", e.Mine.Owner, e.Mine, e.Mine.Epoch)
	switch {
	case e.Now == nil:
		return mine + " any more: it was released"
	case e.Now.ID != e.Mine.ID:
		return fmt.Sprintf("%s any more: it was released, and app %s on host %s has the address now", mine, e.Now.App, e.Now.Owner)
	case e.Now.TakenFrom == e.Mine.Owner:
		return fmt.Sprintf("%s any more: host %s took it over, and owns it with epoch %d", mine, e.Now.Owner, e.Now.Epoch)
	}
	return fmt.Sprintf("%s: host %s owns it with epoch %d (%s)", mine, e.Now.Owner, e.Now.Epoch, e.Now.State)
}

// StateError is a change that an endpoint's state does not allow.
type StateError struct {
	Now  Endpoint
	Want string // what was to be done
}

func (e *StateError) Error() string {
	return fmt.Sprintf("%s: endpoint %s is %s", e.Want, e.Now, e.Now.where())
}

func (e Endpoint) where() string {
	if e.State == Moving {
		return fmt.Sprintf("moving from host %s to host %s", e.Owner, e.Target)
	}
	return fmt.Sprintf("%s on host %s", e.State, e.Owner)
}
