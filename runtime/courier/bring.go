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
type TakenError struct {
	Host, Name string
	Template   bool
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("host %s: there is another %v: %v", e.Host, lodging{Template: e.Template, Name: e.Name}, errdefs.ErrAlreadyExists)
}

// Is makes the error an errdefs.ErrAlreadyExists.
func (e *TakenError) Is(target error) bool { return target == errdefs.ErrAlreadyExists }

// Remedy says what to do.
func (e *TakenError) Remedy() string {
	if e.Template {
		return fmt.Sprintf("take it there under another name with `snapctl template push %s --to %s --as NAME`, and clone it there", e.Name, e.Host)
	}
	return fmt.Sprintf("take it there under another name with `snapctl snapshots push %s --to %s --as NAME`, and restore it there", e.Name, e.Host)
}

// BusyError is that another request brings a host the same.
type BusyError struct {
	Host, Name string
	Template   bool
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("host %s: %v is being brought there by another request", e.Host, lodging{Template: e.Template, Name: e.Name})
}

// Remedy says what to do.
func (e *BusyError) Remedy() string { return "try again when that is done" }

// Guest is a snapshot or a template that another host has for a request.
type Guest struct {
	Result // zero if it was there

	host   string
	stream *control.Stream
	stays  bool // it was there, or has been kept
}

// Bring has another host have a snapshot or a template of this one for a request, by the same name: it is sent unless it is there.
// Unless the caller says [Guest.Keep] it is removed there when the guest is closed, or the hosts do not hear
// each other any more; what was there before stays in any case.
//
// Returns a *[TakenError] if the host has another one of that name.
func (c *Courier) Bring(ctx context.Context, r Request) (_ *Guest, err error) {
	r.As = r.name()
	if err := c.check(r, true); err != nil {
		return nil, err
	}
	l := r.lodging()
	if l.Identity, err = c.identity(l); err != nil {
		return nil, err
	}
	parameters, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	s, err := c.opt.Open(ctx, r.Host, GuestKind, parameters)
	if err != nil {
		return nil, c.explain(r.Host, err)
	}
	g := &Guest{host: r.Host, stream: s, stays: true}
	defer func() {
		if err != nil {
			g.Close()
		}
	}()
	b, err := s.Recv()
	if err != nil {
		return nil, fmt.Errorf("look for %v on host %s: %w", l, r.Host, err)
	}
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("look for %v on host %s: %w", l, r.Host, err)
	}
	switch {
	case a.Taken:
		return nil, &TakenError{r.Host, r.As, l.Template}
	case a.Busy:
		return nil, &BusyError{r.Host, r.As, l.Template}
	case a.There:
		return g, nil
	}
	r.guest, g.stays = true, false
	g.Result, err = c.Push(ctx, r)
	return g, err
}

// Keep has what was brought stay on the other host. If it fails the other host removes it, as far as it
// can be known.
func (g *Guest) Keep() error {
	if g.stays {
		return nil
	}
	if err := g.stream.Send([]byte(keepIt)); err != nil {
		return fmt.Errorf("keep %s on host %s: %w", g.Name, g.host, err)
	}
	if _, err := g.stream.Recv(); err != nil {
		return fmt.Errorf("keep %s on host %s: %w", g.Name, g.host, err)
	}
	g.stays = true
	return nil
}

// Close ends that it is a guest. If it is not to stay, Close waits until it is gone, unless the context of [Courier.Bring]
// has ended.
func (g *Guest) Close() {
	defer g.stream.Close()
	if g.stays || g.stream.Send([]byte(goAway)) != nil {
		return
	}
	_, _ = g.stream.Recv() // it ends when that is done, or when the hosts do not hear each other: then it is done too
}
