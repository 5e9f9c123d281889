package peering

import (
	"context"

	"github.com/snapctl/snapctl/vem/control/message"
)

// call makes a call to another host, unless it is cut.
func call[T any](h *host, to string, do func(*host, message.Caller) (T, error)) (T, error) {
	h.w.mu.Lock()
	cut := uncut
	if h.w.cut != nil {
		cut = h.w.cut(h.name, to)
	}
	h.w.mu.Unlock()
	var none T
	if cut == before {
		return none, errCut
	}
	res, err := do(h.w.hosts[to], message.Caller{Host: h.name})
	if cut == after {
		return none, errCut
	}
	return res, err
}

// Connect implements [Peers].
func (h *host) Connect(ctx context.Context, to string, r message.ConnectRequest) (message.Channel, error) {
	r.ID = message.NewID()
	r, err := message.FromConnect(message.ToConnect(r)) // and refuses what may not be said
	if err != nil {
		return message.Channel{}, err
	}
	return call(h, to, func(o *host, from message.Caller) (message.Channel, error) {
		c, err := o.Peering.Connect(ctx, from, r)
		c.Local, c.Remote = c.Remote, c.Local
		return c, err
	})
}

// Switch implements [Peers].
func (h *host) Switch(ctx context.Context, to string, r message.SwitchRequest) (message.Channel, error) {
	r.ID = message.NewID()
	r, err := message.FromSwitch(message.ToSwitch(r))
	if err != nil {
		return message.Channel{}, err
	}
	return call(h, to, func(o *host, from message.Caller) (message.Channel, error) {
		c, err := o.Peering.Switch(ctx, from, r)
		c.Local, c.Remote = c.Remote, c.Local
		return c, err
	})
}

// Disconnect implements [Peers].
func (h *host) Disconnect(ctx context.Context, to string, r message.DisconnectRequest) error {
	_, err := call(h, to, func(o *host, from message.Caller) (int, error) { return 0, o.Peering.Disconnect(ctx, from, r) })
	return err
}

// Introduce implements [Peers].
func (h *host) Introduce(ctx context.Context, to string, r message.IntroduceRequest) error {
	r, err := message.FromIntroduce(message.ToIntroduce(r))
	if err != nil {
		return err
	}
	h.w.told.Add(int64(len(r.Endpoints)))
	_, err = call(h, to, func(o *host, from message.Caller) (int, error) { return 0, o.Peering.Introduce(ctx, from, r) })
	return err
}

// Reconcile implements [Peers].
func (h *host) Reconcile(ctx context.Context, to string, ours message.Table) (message.Table, bool, error) {
	flip := func(t message.Table) message.Table {
		if t.Channel != nil {
			c := *t.Channel
			c.Local, c.Remote = c.Remote, c.Local
			t.Channel = &c
		}
		return t
	}
	h.w.told.Add(int64(len(ours.Routes)))
	var c message.Checks
	if c.Table(ours, h.name, to); c.Err != nil {
		return message.Table{}, false, c.Err
	}
	merged, err := call(h, to, func(o *host, from message.Caller) (message.Table, error) {
		t, err := o.Peering.Reconcile(ctx, from, flip(ours))
		return flip(t), err
	})
	return merged, false, err
}
