package overview

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Status is what came of a step, or of a check.
type Status string

// The statuses. A warning is something that works, but not as it should.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "failed"
)

// Step is one step of the way to an endpoint.
type Step struct {
	Check

	Took time.Duration
}

// Guide knows the way to endpoints.
type Guide interface {
	// Networks returns the prefixes of the networks that are known, by their names.
	Networks() map[string][]netip.Prefix
	// Resolve tells who has an endpoint. It returns an error wrapping errdefs.ErrNotFound if
	// nobody has.
	Resolve(ctx context.Context, q Question) (Answer, error)
	// Control tells how it stands with the control channel to a host.
	Control(host string) Control
	// AskOwner asks a host whether it has an endpoint, with which epoch, and what that is doing.
	AskOwner(ctx context.Context, e Resolution) (Resolution, error)
	// Channels returns the channels that are up, and those that were.
	Channels(ctx context.Context) ([]Channel, error)
}

// Request asks for the way from an app of this host to an endpoint.
type Request struct {
	To   Question
	From string // an app of this host; empty: any that is in the network
	// Echo has a packet go from an app of this host to an address and back, and returns how long
	// that took. It sends again what is lost, until ctx ends. See [Echo].
	Echo func(ctx context.Context, fromApp string, to netip.Addr, size Size) (time.Duration, error)
}

// Size is how large a packet is.
type Size int

// The sizes.
const (
	Small Size = iota // 84 bytes with IPv4
	Full              // what the app's network device takes, not to be fragmented
)

// patience is how long a trace waits for a packet's answer, and for a host's.
const patience = 5 * time.Second

// Trace follows the way to an endpoint, and tells each step as soon as it is done. It returns false
// when a step has failed, which is the last one.
func Trace(ctx context.Context, g Guide, r Request, tell func(Step)) bool {
	t := &tracer{g: g, r: r}
	for _, step := range []struct {
		name string
		do   func(context.Context) verdict
	}{
		{"network", t.network},
		{"owner", t.owner},
		{"source", t.source},
		{"host", t.host},
		{"control", t.control},
		{"agreement", t.agreement},
		{"channel", t.channel},
		{"route", t.route},
		{"packet", t.packet},
		{"full-size", t.fullSize},
		{"app", t.app},
	} {
		began := time.Now()
		v := step.do(ctx)
		if v.status == "" {
			continue
		}
		tell(Step{named(step.name, v), time.Since(began)})
		if v.status == Failed {
			return false
		}
	}
	return true
}

// verdict is what came of a step; without a status it is left out.
type verdict struct {
	status        Status
	found, remedy string
}

func fine(format string, args ...any) verdict {
	return verdict{status: OK, found: fmt.Sprintf(format, args...)}
}

func failed(remedy, format string, args ...any) verdict {
	return verdict{Failed, fmt.Sprintf(format, args...), remedy}
}

// tracer is one trace under way.
type tracer struct {
	g Guide
	r Request

	to   Resolution
	addr netip.Addr // of to, of the family that was asked for
	from Resolution
}

// network looks which network an address is of.
func (t *tracer) network(context.Context) verdict {
	q := &t.r.To
	if !q.Addr.IsValid() {
		return verdict{} // the owner tells
	}
	var names []string
	all := t.g.Networks()
	for name, prefixes := range all {
		if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(q.Addr) }) && (q.Network == "" || q.Network == name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	switch {
	case len(names) == 0 && q.Network != "":
		return failed("snapctl vem resolve --network "+q.Network+" lists what is in it", "network %s has no address %s", q.Network, q.Addr)
	case len(names) == 0:
		return failed("compare it with snapctl vem resolve, which lists all endpoints", "no network of this host or its installation has an address %s: they have %s", q.Addr, prefixText(all))
	case len(names) > 1:
		return fine("%s is an address of the networks %s", q.Addr, strings.Join(names, ", "))
	}
	q.Network = names[0]
	return fine("%s is an address of network %s", q.Addr, names[0])
}

func prefixText(all map[string][]netip.Prefix) string {
	var list []string
	for _, prefixes := range all {
		for _, p := range prefixes {
			list = append(list, p.String())
		}
	}
	slices.Sort(list)
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// owner looks who has the endpoint.
func (t *tracer) owner(ctx context.Context) verdict {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a, err := t.g.Resolve(ctx, t.r.To)
	switch {
	case isNotFound(err):
		return failed("start the app, or look for its address: snapctl vem resolve lists all endpoints", "%s", short(err))
	case err != nil:
		return failed("snapctl doctor tells what is in the way of the directory", "%s", err)
	case len(a.Found) > 1:
		return failed("say which one is meant with --network", "it is in the networks %s and %s", a.Found[0].Network, a.Found[1].Network)
	case len(a.Found) == 0:
		return failed("name an address or an app", "no endpoint was asked for")
	}
	t.to, t.addr = a.Found[0], a.Found[0].Addr4
	if t.r.To.Addr.Is6() {
		t.addr = t.to.Addr6
	}
	where := "on this host"
	if !t.to.Self {
		where = fmt.Sprintf("on host %s with epoch %d", t.to.Host, t.to.Epoch)
	}
	v := fine("app %s at %s, %s, known from: %s", t.to.App, t.addr, where, t.to.Source)
	if a.Trouble != nil && !t.to.Self {
		v.status, v.found = Warning, v.found+"; the directory can't be asked: "+a.Trouble.Error()
		v.remedy = "what is known goes on; snapctl doctor tells what is in the way of the directory"
	}
	return v
}

// source looks for the app that packets come from.
func (t *tracer) source(ctx context.Context) verdict {
	a, err := t.g.Resolve(ctx, Question{App: t.r.From})
	if err != nil && !isNotFound(err) {
		return failed("", "%s", err)
	}
	var other string
	for _, e := range a.Found {
		switch {
		case strings.HasPrefix(e.App, "host:"): // the host itself (directory.HostApp), which is no app
		case e.Self && e.Network == t.to.Network && e.Addr4 != t.to.Addr4:
			t.from = e
			return fine("app %s at %s, %s", e.App, e.Addr4, e.State)
		case t.r.From == "":
		case !e.Self:
			other = fmt.Sprintf("app %s is on host %s", e.App, e.Host)
		case e.Network != t.to.Network:
			other = fmt.Sprintf("app %s is in network %s", e.App, e.Network)
		default:
			other = fmt.Sprintf("app %s is the one that is looked for", e.App)
		}
	}
	switch {
	case other != "":
		return failed("name an app of this host and of network "+t.to.Network+" with --from: snapctl ps lists them", "%s", other)
	case t.r.From != "":
		return failed("snapctl ps lists the apps of this host", "there is no app %s", t.r.From)
	}
	return failed("run one there, from which a packet can be sent: snapctl run --network "+t.to.Network, "this host has no other app in network %s", t.to.Network)
}

// host looks whether the owner is there.
func (t *tracer) host(context.Context) verdict {
	switch {
	case t.to.Self:
		return verdict{}
	case t.to.Alive:
		return fine("host %s was seen a moment ago", t.to.Host)
	}
	return verdict{
		Warning, fmt.Sprintf("host %s was not seen by the directory for a while", t.to.Host),
		"look whether it runs, and reaches the directory: snapctl doctor there",
	}
}

// control looks whether the owner can be asked.
func (t *tracer) control(context.Context) verdict {
	if t.to.Self {
		return verdict{}
	}
	c := t.g.Control(t.to.Host)
	switch {
	case c.Connected:
		return fine("connected to %s, snapctl %s", c.Address, c.Version)
	case c.Err != nil:
		return failed(c.Remedy, "%s", c.Err)
	}
	return failed("try again in a moment", "host %s was not reached yet", t.to.Host)
}

// agreement asks the owner.
func (t *tracer) agreement(ctx context.Context) verdict {
	if t.to.Self {
		return verdict{}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	said, err := t.g.AskOwner(ctx, t.to)
	switch {
	case isNotFound(err):
		return failed("its app has just ended, or moved: try again in a moment", "host %s does not know the endpoint", t.to.Host)
	case err != nil:
		return failed("", "%s", err)
	case said.Host != t.to.Host || said.Epoch != t.to.Epoch:
		return failed("the endpoint is changing its owner: try again in a moment", "host %s says that %s has it with epoch %d", t.to.Host, said.Host, said.Epoch)
	}
	t.to.State = said.State
	return fine("host %s says that it has it with epoch %d", said.Host, said.Epoch)
}

// app tells what the app is doing.
func (t *tracer) app(context.Context) verdict {
	if t.to.State == "held" {
		return fine("app %s is hibernated: a connection or data wakes it, if its wake policy allows that; an echo does not", t.to.App)
	}
	return fine("app %s is %s", t.to.App, t.to.State)
}

// isNotFound tells whether an error says that there is no such thing, by the method that errdefs
// knows it by.
func isNotFound(err error) bool {
	var e interface{ NotFound() }
	return errors.As(err, &e)
}

// short is an error that says that something is not found, without these words.
func short(err error) string { return strings.TrimSuffix(err.Error(), ": not found") }
