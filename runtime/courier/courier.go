// Package courier takes snapshots and templates to other hosts of the installation, and gets snapshots from there.
//
//	Push   this host opens a stream, says what is coming, and sends
//	Pull   this host opens a stream, says what it wants, and receives
//	Serve  does the other half of both, on the host that was asked
//	Bring  is Push for a request that another host is going to do: its end decides whether the snapshot stays
//	Lodge  is the other half of that
//
// What is on the stream after that is package cargo's. A template travels as its snapshot, with its rules in what is
// said first. It is there when its snapshot is, or neither is. A snapshot that was taken to another host is
// one of that host: it has a name of its own there, and neither host knows of the other one's.
package courier

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/compat"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Kind is the kind of the streams that [Courier.Serve] answers.
const Kind = "snapshot"

// Options are what a courier works with. All are required.
type Options struct {
	// Open opens a stream to another host, see installation.OpenStream.
	Open func(ctx context.Context, host, kind string, parameters []byte) (*control.Stream, error)
	// Self is the name of this host; "": it is in no installation.
	Self      func() string
	Snapshots *store.Store
	Stores    cargo.Stores
	// Freed is told that what somebody else may have the only use of is nobody's any more. It returns
	// at once.
	Freed  func()
	Events *event.Bus
	Origin snapshot.Origin // of what is saved on this host
	// Obstacles tells why no app could be made of a snapshot of this host now.
	Obstacles func(ctx context.Context, dir snapshot.Dir, m *snapshot.Manifest) []string
	// Templates returns the templates of this host, RemoveTemplate removes one.
	Templates      func() *catalog.Catalog
	RemoveTemplate func(ctx context.Context, name string) error
	// GuestsDir has a file for each snapshot that is here for a request of another host. Made by Sweep.
	GuestsDir string
	Log       *slog.Logger
}

// Courier takes and gets snapshots. Its methods may be called at the same time.
type Courier struct {
	opt    Options
	here   compat.Host
	guests guests
}

// New returns a courier. Nothing is open.
func New(opt Options) *Courier {
	return &Courier{opt: opt, here: compat.Here(opt.Origin), guests: guests{dir: opt.GuestsDir, names: make(map[string]bool)}}
}

// Request says what is to be taken or got.
type Request struct {
	Snapshot string // its name where it is
	Template string // the name of a template, which is taken instead of a snapshot
	Host     string // the other host
	As       string // its name where it comes to; "": the same
	// Bandwidth is how many bytes a second are sent at most; 0: as many as the network takes.
	Bandwidth int64
	// Progress is as in [cargo.SendOptions].
	Progress func(cargo.Progress)

	guest bool   // see Bring
	rules string // of a template that comes
}

// name is that of what travels.
func (r *Request) name() string { return cmp.Or(r.Template, r.Snapshot) }

// about is what events are told of it.
func (r *Request) about(reason string) event.About {
	return event.About{Snapshot: r.Snapshot, Template: r.Template, Reason: reason}
}

// Result is what became of a request.
type Result struct {
	cargo.Report

	Name string // of the snapshot or template where it came to
}

// order is what a host that opens a stream wants.
type order struct {
	Take      bool   `json:"take"` // the host that is asked is to take the snapshot, rather than to give it
	Snapshot  string `json:"snapshot"`
	As        string `json:"as"`
	Bandwidth int64  `json:"bandwidth"`
	// Guest is that it comes for a request, see [Courier.Bring].
	Guest bool `json:"guest,omitempty"`
	// Template is that of which the snapshot is, on the host that opens the stream, and Rules are its rules.
	Template string `json:"template,omitempty"`
	Rules    string `json:"rules,omitempty"`
}

// Push takes a snapshot or a template of this host to another host. If it fails nothing is left there, unless the
// error wraps [cargo.ErrUnknown].
func (c *Courier) Push(ctx context.Context, r Request) (Result, error) {
	return c.ask(ctx, r, event.SendSnapshot, "to host "+r.Host, true, c.send)
}

// Pull gets a snapshot from another host. If it fails nothing is left here.
func (c *Courier) Pull(ctx context.Context, r Request) (Result, error) {
	return c.ask(ctx, r, event.ReceiveSnapshot, "from host "+r.Host, false, c.receive)
}

// ask does something on a stream to another host, which is told what.
func (c *Courier) ask(ctx context.Context, r Request, kind event.Kind, reason string, take bool, do func(context.Context, *control.Stream, Request) (cargo.Report, error)) (_ Result, err error) {
	r.As = cmp.Or(r.As, r.name())
	if err := c.check(r, take); err != nil {
		return Result{}, err
	}
	op := c.opt.Events.Begin(kind, r.about(reason))
	defer func() { op.End(err) }()
	o := order{Take: take, Snapshot: r.Snapshot, As: r.As, Bandwidth: r.Bandwidth, Guest: r.guest}
	if r.Template != "" {
		t, err := c.opt.Templates().Get(r.Template)
		if err != nil {
			return Result{}, err
		}
		r.Snapshot, o.Snapshot, o.Template, o.Rules = t.Snapshot, t.Snapshot, t.Name, t.RulesText
	}
	parameters, err := json.Marshal(o)
	if err != nil {
		return Result{}, fmt.Errorf("encode: %w", err)
	}
	s, err := c.opt.Open(ctx, r.Host, Kind, parameters)
	if err != nil {
		return Result{}, c.explain(r.Host, err)
	}
	defer s.Close()
	report, err := do(ctx, s, r)
	return Result{Report: report, Name: r.As}, err
}

// check checks a request. take is that the other host is to take the snapshot.
func (c *Courier) check(r Request, take bool) error {
	for _, name := range []string{r.name(), r.As} {
		if err := snapshot.ValidateName(name); err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
	}
	if r.Bandwidth < 0 {
		return fmt.Errorf("bandwidth %d: %w", r.Bandwidth, errdefs.ErrInvalidArgument)
	}
	if self := c.opt.Self(); self != "" && r.Host == self {
		return fmt.Errorf("host %s is this host: %w", r.Host, errdefs.ErrInvalidArgument)
	}
	switch { // a name that is wrong here need not be told there
	case r.Template != "":
		_, err := c.opt.Templates().Get(r.Template)
		return err
	case take:
		_, _, err := c.opt.Snapshots.Find(r.Snapshot)
		return err
	}
	return nil
}

// explain has users know what an error of a stream means.
func (c *Courier) explain(host string, err error) error {
	if refused, ok := errors.AsType[*message.RefusedError](err); ok && refused.Hint == "" {
		return fmt.Errorf("snapshots can't be taken to host %s, nor be got from there, as long as its snapctld is older: %w", host, err)
	}
	return err
}

// Serve does what another host wants that has opened a stream, see [control.Handlers].
func (c *Courier) Serve(ctx context.Context, from message.Caller, s *control.Stream) (err error) {
	var o order
	if err := json.Unmarshal(s.Parameters, &o); err != nil {
		return &message.InvalidError{What: "request for a snapshot", Why: err.Error()}
	}
	kind, reason := event.SendSnapshot, "to host "+from.Host
	if o.Take {
		kind, reason = event.ReceiveSnapshot, "from host "+from.Host
	}
	r := Request{Snapshot: message.OneLine(o.Snapshot), Template: message.OneLine(o.Template), Host: from.Host, As: o.As, Bandwidth: o.Bandwidth, guest: o.Guest, rules: o.Rules}
	op := c.opt.Events.Begin(kind, r.about(reason))
	defer func() { op.End(err) }()
	switch {
	case o.Take && o.Template != "":
		_, err = c.receiveTemplate(ctx, s, r)
	case o.Take:
		_, err = c.receive(ctx, s, r)
	default:
		_, err = c.send(ctx, s, r)
	}
	return err
}

// send sends a snapshot of this host.
func (c *Courier) send(ctx context.Context, s *control.Stream, r Request) (cargo.Report, error) {
	claim, err := c.opt.Snapshots.Claim(r.Snapshot, store.Reason{
		Why: "it is being sent to host " + r.Host, Remedy: "try again when that is done",
	})
	if err != nil {
		return cargo.Report{}, cargo.Refuse(ctx, s, err)
	}
	defer claim.Release()
	open, err := c.opt.Snapshots.Open(ctx, r.Snapshot, snapshot.ByStamp)
	if err != nil {
		return cargo.Report{}, cargo.Refuse(ctx, s, err)
	}
	defer open.Close()
	return cargo.Send(ctx, s, open.Dir, c.opt.Stores, cargo.SendOptions{Bandwidth: r.Bandwidth, Progress: r.Progress, Peer: r.Host, Features: c.here.Features})
}

// receive receives a snapshot, which becomes one of this host.
func (c *Courier) receive(ctx context.Context, s *control.Stream, r Request) (cargo.Report, error) {
	report, err := c.take(ctx, s, r, func(*snapshot.Manifest) error { return nil }, func() error { return nil })
	if err != nil {
		return report, err
	}
	return report, c.wanted(ctx, r)
}

// receiveTemplate receives a template: its snapshot gets the template's name, and goes with it.
func (c *Courier) receiveTemplate(ctx context.Context, s *control.Stream, r Request) (cargo.Report, error) {
	draft, err := c.opt.Templates().Begin(r.As, "", r.rules)
	if err != nil {
		return cargo.Report{}, cargo.Refuse(ctx, s, err)
	}
	report, err := c.take(ctx, s, r, func(m *snapshot.Manifest) error {
		if !m.WithStorage {
			return fmt.Errorf("snapshot %s has no files: a template needs them: %w", m.Name, errdefs.ErrFailedPrecondition)
		}
		return draft.Owns()
	}, draft.Commit)
	if err != nil {
		return report, errors.Join(err, draft.Drop())
	}
	draft.Add()
	return report, c.wanted(ctx, r)
}

// wanted returns an error if something came for a request that has ended meanwhile, and removes it: who ended
// the request has looked before for what to remove.
func (c *Courier) wanted(ctx context.Context, r Request) error {
	if !r.guest || c.guests.has(r.lodging()) {
		return nil
	}
	return errors.Join(errNoGuest, c.remove(ctx, r.lodging()))
}

// lodging is what it is where it comes to, but for its identity.
func (r *Request) lodging() lodging { return lodging{Template: r.Template != "", Name: r.As} }

// take receives a snapshot. Owns is told when it has its name, before anything of it is there, and keep when all of it
// is.
func (c *Courier) take(ctx context.Context, s *control.Stream, r Request, owns func(*snapshot.Manifest) error, keep func() error) (_ cargo.Report, err error) {
	free := func() {}
	defer func() { free() }()
	got, err := cargo.Receive(ctx, s, c.opt.Stores, cargo.ReceiveOptions{
		Place: func(m *snapshot.Manifest) (string, error) {
			if r.As == "" { // it would be given another name
				return "", fmt.Errorf("a snapshot without a name: %w", errdefs.ErrInvalidArgument)
			}
			dir, undo, err := c.opt.Snapshots.Reserve(r.As, m.App)
			if err != nil {
				return "", err
			}
			free = undo
			m.Name = r.As
			if r.guest && !c.guests.has(r.lodging()) {
				return "", errNoGuest
			}
			return string(dir), owns(m)
		},
		Keep:     func(*cargo.Received) error { return keep() },
		Progress: r.Progress, Peer: r.Host,
		Notes: func(ctx context.Context, got *cargo.Received) []string {
			return append(c.differences(got), c.opt.Obstacles(ctx, got.Dir, got.Manifest)...)
		},
	})
	if err != nil {
		c.opt.Freed()
		return cargo.Report{}, err
	}
	got.Release() // its manifest names all of it
	free()
	return got.Report, nil
}

// errNoGuest is a snapshot that comes for a request that has ended.
var errNoGuest = errors.New("the request for which the snapshot comes has ended")

// differences are what this host has otherwise than the one where a snapshot was saved, or comes from.
func (c *Courier) differences(got *cargo.Received) []string {
	there := compat.Host{Origin: got.Manifest.Origin, Features: got.Features}
	if why := c.here.Refusal(there); why != "" {
		return []string{why + ": no app can be made of it here"}
	}
	return c.here.Notes(there)
}
