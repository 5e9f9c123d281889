package overview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/pause"
)

// lookAgain is how often a trace looks whether a channel has come up.
const lookAgain = 5 * time.Millisecond

// way is the channel to the owner, and whether it leads to the endpoint.
func (t *tracer) way(ctx context.Context) (c Channel, routed bool, err error) {
	all, err := t.g.Channels(ctx)
	for _, c = range all {
		if c.Network == t.to.Network && c.Host == t.to.Host {
			return c, c.Up && slices.Contains(c.Endpoints, t.addr), nil
		}
	}
	return Channel{}, false, err
}

// channel looks whether the channel is up, and if it is not has a packet bring it up.
func (t *tracer) channel(ctx context.Context) verdict {
	if t.to.Self {
		return verdict{}
	}
	c, routed, err := t.way(ctx)
	if err != nil {
		return failed("", "%s", err)
	}
	if c.Up && routed {
		return fine("up %s", c.text())
	}
	was := "was down"
	if c.Up {
		was = "was up, without a route"
	}
	began := time.Now()
	c, routed, err = t.build(ctx)
	switch {
	case routed:
		return fine("%s; a packet brought it up in %s: %s", was, time.Since(began).Round(100*time.Microsecond), c.text())
	case err == nil:
		err = errors.New("a packet was sent, and no channel came up")
	}
	return failed(fmt.Sprintf("snapctl doctor, here and on host %s, compares both hosts; the logs of snapctld there and here say why no channel could be agreed on", t.to.Host), "%s; %s", was, err)
}

func (c Channel) text() string {
	since := ""
	if !c.Since.IsZero() {
		since = ", since " + c.Since.Format(time.TimeOnly)
	}
	return fmt.Sprintf("by %s on %s from %s to %s, MTU %d%s", c.Module, c.Device, c.Local, c.Remote, c.MTU, since)
}

// build sends a packet that has no way yet, and waits until it has.
func (t *tracer) build(ctx context.Context) (c Channel, routed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done, unanswered := make(chan struct{}), error(nil)
	go func() {
		defer close(done)
		_, unanswered = t.r.Echo(ctx, t.from.App, t.addr, Small)
	}()
	defer func() {
		cancel()
		<-done
	}()
	for {
		if c, routed, err = t.way(ctx); err != nil || routed {
			return c, routed, err
		}
		select {
		case <-done:
			if unanswered != nil {
				return c, false, unanswered
			}
			return t.way(ctx) // it is answered, so it had one
		default:
		}
		if !pause.For(ctx, lookAgain, nil) {
			return c, false, fmt.Errorf("no channel came up within %s", patience)
		}
	}
}

// route looks whether packets for the endpoint take the channel.
func (t *tracer) route(ctx context.Context) verdict {
	if t.to.Self {
		return verdict{}
	}
	c, routed, err := t.way(ctx)
	switch {
	case err != nil:
		return failed("", "%s", err)
	case !routed:
		return failed("try again: the channel was taken down meanwhile", "packets for %s do not take the channel to host %s", t.addr, t.to.Host)
	}
	return fine("%s leads into it, with %d endpoints in all", t.addr, len(c.Endpoints))
}

// packet has a packet go there and back.
func (t *tracer) packet(ctx context.Context) verdict {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	took, err := t.r.Echo(ctx, t.from.App, t.addr, Small)
	if err == nil {
		return fine("an echo from %s to %s and back in %s", t.from.Addr4, t.addr, took.Round(10*time.Microsecond))
	}
	what := "the app may refuse echoes (ICMP) by a firewall of its own; else see what was dropped: nft list ruleset in its network"
	if !t.to.Self {
		what = fmt.Sprintf("the channel is up on both hosts, and packets are lost between them: look for a firewall between them that lets IP protocols 4 and 41 not pass, and at snapctl vem channels on host %s", t.to.Host)
	}
	return failed(what, "no answer to an echo from %s to %s: %s", t.from.Addr4, t.addr, err)
}

// fullSize has the largest packet go there and back.
func (t *tracer) fullSize(ctx context.Context) verdict {
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	took, err := t.r.Echo(ctx, t.from.App, t.addr, Full)
	var small *TooBigError
	switch {
	case err == nil:
		return fine("the largest packet there and back in %s", took.Round(10*time.Microsecond))
	case errors.As(err, &small):
		return fine("packets of up to %d bytes; larger ones are answered, and sent smaller", small.MTU)
	}
	return verdict{
		Warning, "small packets pass, and the largest ones get lost: " + err.Error(),
		"the network between the hosts takes less than it says (a black hole of path MTU): raise the MTU there, or lower that of the device that the channel is on",
	}
}
