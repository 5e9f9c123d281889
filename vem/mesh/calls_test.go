package mesh

import (
	"context"

	"github.com/snapctl/snapctl/vem/control/message"
)

// called counts a call, and returns the host that is called.
func (p *place) called(host string) (*place, message.Caller) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.calls++
	for _, o := range p.w.all {
		if o.h.Name() == host {
			return o, message.Caller{Host: p.h.Name()}
		}
	}
	panic("there is no host " + host)
}

// Connect implements [peering.Peers].
func (p *place) Connect(ctx context.Context, host string, r message.ConnectRequest) (message.Channel, error) {
	o, from := p.called(host)
	c, err := o.Peering().Connect(ctx, from, r)
	c.Local, c.Remote = c.Remote, c.Local
	p.w.mu.Lock()
	answered := p.w.answered
	p.w.answered = nil
	p.w.mu.Unlock()
	if answered != nil {
		answered()
	}
	return c, err
}

// Switch implements [peering.Peers].
func (p *place) Switch(ctx context.Context, host string, r message.SwitchRequest) (message.Channel, error) {
	o, from := p.called(host)
	p.w.mu.Lock()
	agrees := p.w.agrees
	p.w.mu.Unlock()
	if agrees != nil {
		if err := agrees(); err != nil {
			return message.Channel{}, err
		}
	}
	r.Local, r.Remote = r.Remote, r.Local
	c, err := o.Peering().Switch(ctx, from, r)
	c.Local, c.Remote = c.Remote, c.Local
	return c, err
}

// Disconnect implements [peering.Peers].
func (p *place) Disconnect(ctx context.Context, host string, r message.DisconnectRequest) error {
	o, from := p.called(host)
	return o.Peering().Disconnect(ctx, from, r)
}

// Introduce implements [peering.Peers].
func (p *place) Introduce(ctx context.Context, host string, r message.IntroduceRequest) error {
	o, from := p.called(host)
	return o.Peering().Introduce(ctx, from, r)
}

// Reconcile implements [peering.Peers].
func (p *place) Reconcile(ctx context.Context, host string, ours message.Table) (message.Table, bool, error) {
	o, from := p.called(host)
	t, err := o.Peering().Reconcile(ctx, from, flipped(ours))
	return flipped(t), false, err
}

// flipped is a table as the other host sees its channel.
func flipped(t message.Table) message.Table {
	if t.Channel != nil {
		c := *t.Channel
		c.Local, c.Remote = c.Remote, c.Local
		t.Channel = &c
	}
	return t
}
