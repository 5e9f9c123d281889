package directory

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/directory/codec"
)

// claimsAtOnce is how many endpoints are claimed or released in one transaction: two entries
// each, and the session's entry and the host's made entry.
const claimsAtOnce = (MaxTxn - 2) / 2

// decision makes a transaction of entries as they are, see Session.change.
type decision func(now map[string]Entry) (Txn, error)

// Outcome is what became of one endpoint of several.
type Outcome struct {
	Endpoint Endpoint // as it is, if Err is nil
	Err      error
}

// Claim makes new endpoints of this host, whose Network, Addr, ID, App and State say what they
// are to be; Owner and Epoch are set. Many are claimed in few transactions, and one that can't be
// had is not in the way of the others. To claim again what the host has is right.
//
// An outcome's error is a [*TakenError] if another endpoint has the address, a [*NameError] if
// another app has the name, and wraps [ErrUnsure] or [ErrUnavailable] if the directory can't be
// reached.
func (s *Session) Claim(ctx context.Context, want []Endpoint) []Outcome {
	out := make([]Outcome, len(want))
	var open []*Outcome
	for i, e := range want {
		e.Owner, e.Epoch, e.Target, e.TakenFrom, e.Revision = s.host, 1, "", "", 0
		out[i] = Outcome{Endpoint: e, Err: s.claimable(ctx, e)}
		if out[i].Err == nil {
			open = append(open, &out[i])
		}
	}
	write := func(ctx context.Context, keys []string, decide decision) (int64, error) {
		return s.create(ctx, keys, map[string]Entry{}, decide)
	}
	for some := range slices.Chunk(open, claimsAtOnce) {
		s.each(ctx, some, "claim", write, s.decideClaim)
	}
	return out
}

// claimable returns an error if there can't be such an endpoint.
func (s *Session) claimable(ctx context.Context, e Endpoint) error {
	if err := e.Validate(e.Network + "/" + e.Addr.String()); err != nil {
		return fmt.Errorf("claim endpoint %s: %w", e, err)
	}
	n, err := s.d.Network(ctx, e.Network)
	if err == nil {
		err = n.Space().Check(e.Addr, func(netip.Addr) bool { return false })
	}
	if err != nil {
		return fmt.Errorf("claim endpoint %s: %w", e, err)
	}
	return nil
}

func (s *Session) decideClaim(e *Endpoint, now map[string]Entry) (Txn, error) {
	return s.enterApp(e, now, decideClaim)
}

// enterApp writes what decide makes of an endpoint, together with the record of its app.
func (s *Session) enterApp(e *Endpoint, now map[string]Entry, decide func(*Endpoint, Endpoint) (Endpoint, bool, error)) (Txn, error) {
	app := appRecord{Network: e.Network, Addr: e.Addr, ID: e.ID}
	there, err := s.d.endpoint(now[s.d.keys.endpoint(e.Network, e.Addr)])
	if err != nil {
		return Txn{}, err
	}
	next, done, err := decide(there, *e)
	if err != nil {
		return Txn{}, err
	}
	if named := now[s.d.keys.app(e.App)]; named.Revision != 0 && !done {
		var r appRecord
		if err := s.d.decode(named, &r); err != nil {
			return Txn{}, err
		}
		if r != app {
			return Txn{}, &NameError{App: e.App, Network: r.Network, Addr: r.Addr}
		}
	}
	*e = next
	if done {
		return Txn{}, nil
	}
	return s.d.puts(map[string]codec.Record{s.d.keys.endpoint(e.Network, e.Addr): e, s.d.keys.app(e.App): &app})
}

// Release ends endpoints of this host: nobody has their addresses and names any more. Those that
// have been released are passed over. An outcome's error is an [*OwnerError] if another host owns
// the endpoint.
func (s *Session) Release(ctx context.Context, mine []Endpoint) []Outcome {
	out := make([]Outcome, len(mine))
	var open []*Outcome
	for i, e := range mine {
		e.Owner = s.host
		out[i].Endpoint = e
		open = append(open, &out[i])
	}
	write := func(ctx context.Context, keys []string, decide decision) (int64, error) {
		return s.change(ctx, keys, nil, decide)
	}
	for some := range slices.Chunk(open, claimsAtOnce) {
		s.each(ctx, some, "release", write, s.decideRelease)
	}
	return out
}

func (s *Session) decideRelease(e *Endpoint, now map[string]Entry) (Txn, error) {
	key, name := s.d.keys.endpoint(e.Network, e.Addr), s.d.keys.app(e.App)
	there, err := s.d.endpoint(now[key])
	if err != nil {
		return Txn{}, err
	}
	if done, err := decideRelease(there, *e); done || err != nil {
		return Txn{}, err
	}
	t := Txn{Deletes: []string{key}}
	var r appRecord
	if now[name].Revision != 0 && s.d.decode(now[name], &r) == nil && r.ID == e.ID {
		t.Deletes = append(t.Deletes, name)
	}
	return t, nil
}

// each makes one kind of change to some endpoints in one transaction, or in several if some of
// them can't be changed, and notes what became of each. write is Session.change or
// Session.create.
func (s *Session) each(ctx context.Context, some []*Outcome, what string,
	write func(ctx context.Context, keys []string, decide decision) (int64, error), decide func(*Endpoint, map[string]Entry) (Txn, error),
) {
	var names []string
	for _, o := range some {
		names = append(names, s.d.keys.endpoint(o.Endpoint.Network, o.Endpoint.Addr), s.d.keys.app(o.Endpoint.App))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	next, errs := make([]Endpoint, len(some)), make([]error, len(some))
	rev, err := write(ctx, names, func(now map[string]Entry) (Txn, error) {
		var all Txn
		written := make(map[string]bool)
		for i, o := range some {
			next[i] = o.Endpoint
			var t Txn
			if t, errs[i] = decide(&next[i], now); errs[i] == nil {
				errs[i] = all.add(t, written)
			}
		}
		return all, nil
	})
	for i, o := range some {
		if o.Err = err; err == nil {
			o.Err = errs[i]
		}
		if o.Err != nil {
			o.Err = fmt.Errorf("%s endpoint %s: %w", what, o.Endpoint, o.Err)
			continue
		}
		if o.Endpoint = next[i]; o.Endpoint.Revision == 0 {
			o.Endpoint.Revision = rev
		}
	}
}

// errTwice is an endpoint or name that is in one call more than once.
var errTwice = errors.New("it is there twice")

// add joins a transaction with another one, unless both write the same entry.
func (t *Txn) add(u Txn, written map[string]bool) error {
	var keys []string
	for _, p := range u.Puts {
		keys = append(keys, p.Key)
	}
	keys = append(keys, u.Deletes...)
	for _, key := range keys {
		if written[key] {
			return fmt.Errorf("%w: %s", errTwice, key)
		}
	}
	for _, key := range keys {
		written[key] = true
	}
	t.Puts, t.Deletes = append(t.Puts, u.Puts...), append(t.Deletes, u.Deletes...)
	return nil
}

// Update says what an endpoint of this host is now: target is the host that it is moving to,
// for Moving. It returns an [*OwnerError] if the host does not own it with its epoch.
//
// Whoever gives a move up calls Update with Running or Held, and lets no packet out before it has
// succeeded, and Confirm has given a permit again: until then the transfer may still happen.
func (s *Session) Update(ctx context.Context, mine Endpoint, state State, target string) (Endpoint, error) {
	return s.one(ctx, "change", mine, nil, func(now *Endpoint, _ map[string]Entry) (Endpoint, bool, error) {
		return decideUpdate(now, mine, state, target)
	})
}

// Publish says which ports an endpoint of this host publishes. It returns what Update does.
func (s *Session) Publish(ctx context.Context, mine Endpoint, ports string) (Endpoint, error) {
	return s.one(ctx, "publish ports of", mine, nil, func(now *Endpoint, _ map[string]Entry) (Endpoint, bool, error) {
		if !now.is(mine) {
			return mine, false, &OwnerError{Mine: mine, Now: now}
		}
		next := *now
		next.Ports = ports
		return next, next == *now, nil
	})
}

// Transfer gives an endpoint of this host, which is moving to another one, to that host. It is
// the point of no return of a move. Before it is called, this host has stopped its copy, and has
// given its permit up for good: the next daemon does not find it either. The target has a copy
// before, and keeps it as long as the record says that the endpoint is moving to it. Transfer
// returns an [*OwnerError] if the host does not own the endpoint, and a [*HostError] if the other
// one was removed.
func (s *Session) Transfer(ctx context.Context, mine Endpoint, to string) (Endpoint, error) {
	key := s.d.keys.host(to)
	return s.one(ctx, "transfer", mine, []string{key}, func(now *Endpoint, all map[string]Entry) (Endpoint, bool, error) {
		next, done, err := decideTransfer(now, mine, to)
		if err == nil && !done {
			err = s.d.present(to, all[key])
		}
		return next, done, err
	})
}

// present returns an error unless an entry is that of a host which was not removed.
func (d *Directory) present(host string, e Entry) error {
	if e.Revision == 0 {
		return &HostError{host, HostUnknown}
	}
	var h Host
	if err := d.decode(e, &h); err != nil {
		return err
	}
	if h.Removed {
		return &HostError{host, HostRemoved}
	}
	return nil
}

// Takeover makes an endpoint this host's that belonged to a dead host, as it was looked up. It
// returns a [*HostError] if that host is seen alive, and an [*OwnerError] if it does not own the
// endpoint, or not any more. A daemon that died meanwhile finds the endpoint among those of its
// host: it has no copy of it then, and makes one of what it has.
//
// Whoever calls it promises that no copy which ran on that host when it was lost runs on: see
// the package's comment. If the host comes back while this is under way, it keeps the endpoint.
func (s *Session) Takeover(ctx context.Context, there Endpoint) (Endpoint, error) {
	seen, session := s.d.keys.seen(there.Owner), s.d.keys.session(there.Owner)
	var was *int64 // the revision of the dead host's session when this was called
	return s.one(ctx, "take over", there, []string{seen, session}, func(now *Endpoint, all map[string]Entry) (Endpoint, bool, error) {
		next, done, err := decideTakeover(now, there, s.host)
		rev := all[session].Revision
		if was == nil {
			was = &rev
		}
		if err == nil && !done && (all[seen].Revision != 0 || rev != *was || there.Owner == s.host) {
			err = &HostError{there.Owner, HostAlive}
		}
		return next, done, err
	})
}

// one makes one change to an endpoint: it looks at its record, and at other entries, and puts
// the record as it is next.
func (s *Session) one(ctx context.Context, what string, e Endpoint, others []string,
	decide func(now *Endpoint, all map[string]Entry) (next Endpoint, done bool, err error),
) (Endpoint, error) {
	key := s.d.keys.endpoint(e.Network, e.Addr)
	var next Endpoint
	rev, err := s.change(ctx, append([]string{key}, others...), nil, func(all map[string]Entry) (Txn, error) {
		now, err := s.d.endpoint(all[key])
		if err != nil {
			return Txn{}, err
		}
		var done bool
		if next, done, err = decide(now, all); done || err != nil {
			return Txn{}, err
		}
		next.Revision = 0
		return s.d.put(key, &next)
	})
	if err != nil {
		return e, fmt.Errorf("%s endpoint %s: %w", what, e, err)
	}
	if next.Revision == 0 {
		next.Revision = rev
	}
	return next, nil
}
