package courier

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/vem/control"
)

// TakenError is that another host has something else of a name that it was to get. It is an
// errdefs.ErrAlreadyExists.
type TakenError struct{ Host, Name string }

func (e *TakenError) Error() string {
	return fmt.Sprintf("host %s: there is another snapshot %s: %v", e.Host, e.Name, errdefs.ErrAlreadyExists)
}

// Is makes the error an errdefs.ErrAlreadyExists.
func (e *TakenError) Is(target error) bool { return target == errdefs.ErrAlreadyExists }

// Remedy says what to do.
func (e *TakenError) Remedy() string {
	return fmt.Sprintf("take it there under another name with `snapctl snapshots push %s --to %s --as NAME`, and restore it there", e.Name, e.Host)
}

// BusyError is that another request brings a host the same.
type BusyError struct{ Host, Name string }

func (e *BusyError) Error() string {
	return fmt.Sprintf("host %s: snapshot %s is being brought there by another request", e.Host, e.Name)
}

// Remedy says what to do.
func (e *BusyError) Remedy() string { return "try again when that is done" }

// Guest is a snapshot that another host has for a request.
type Guest struct {
	Result // zero if it was there

	host   string
	stream *control.Stream
}

// Bring has another host have a snapshot of this one for a request, by the same name: it is sent unless it is there.
// Unless the caller says [Guest.Keep] it is removed there when the guest is closed, or the hosts do not hear
// each other any more; what was there before stays in any case.
//
// Returns a *[TakenError] if the host has another snapshot of that name.
func (c *Courier) Bring(ctx context.Context, r Request) (_ *Guest, err error) {
	r.As = r.Snapshot
	if err := c.check(r, true); err != nil {
		return nil, err
	}
	_, m, err := c.opt.Snapshots.Find(r.Snapshot)
	if err != nil {
		return nil, err
	}
	parameters, err := json.Marshal(lodging{Name: r.As, Identity: m.Identity()})
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	s, err := c.opt.Open(ctx, r.Host, GuestKind, parameters)
	if err != nil {
		return nil, c.explain(r.Host, err)
	}
	g := &Guest{host: r.Host, stream: s}
	defer func() {
		if err != nil {
			g.Close()
		}
	}()
	b, err := s.Recv()
	if err != nil {
		return nil, fmt.Errorf("look for snapshot %s on host %s: %w", r.As, r.Host, err)
	}
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("look for snapshot %s on host %s: %w", r.As, r.Host, err)
	}
	switch {
	case a.Taken:
		return nil, &TakenError{r.Host, r.As}
	case a.Busy:
		return nil, &BusyError{r.Host, r.As}
	case a.There:
		return g, nil
	}
	r.guest = true
	g.Result, err = c.Push(ctx, r)
	return g, err
}

// Keep has what was brought stay on the other host. If it fails the other host removes it, as far as it
// can be known.
func (g *Guest) Keep() error {
	if g.Name == "" { // it was there
		return nil
	}
	if err := g.stream.Send([]byte(keepIt)); err != nil {
		return fmt.Errorf("keep snapshot %s on host %s: %w", g.Name, g.host, err)
	}
	if _, err := g.stream.Recv(); err != nil {
		return fmt.Errorf("keep snapshot %s on host %s: %w", g.Name, g.host, err)
	}
	return nil
}

// Close ends that it is a guest.
func (g *Guest) Close() { g.stream.Close() }
