package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// hosts is the demo's second part: two hosts that make one installation, an app on each, what happens to the way
// between them, and an app that moves.
type hosts struct {
	*show       // alpha
	beta  *show // the other one
	net   *underlay.Underlay
	store string // the address of the app that is on beta at first
}

// severalHosts shows two hosts.
func severalHosts(ctx context.Context, out io.Writer) (err error) {
	d := &hosts{net: underlay.Open()}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		for _, s := range []*show{d.show, d.beta} {
			if s != nil {
				err = errors.Join(err, s.h.Close(clean))
			}
		}
		err = errors.Join(err, d.net.Close())
	}()
	lan, lerr := d.net.Network(underlay.NetworkConfig{Name: "lan", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	wan, werr := d.net.Network(underlay.NetworkConfig{Name: "wan", Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	if err := errors.Join(lerr, werr); err != nil {
		return err
	}
	for _, at := range []struct {
		name string
		show **show
	}{{"alpha", &d.show}, {"beta", &d.beta}} {
		h, err := host.Open(ctx, host.Config{Name: at.name})
		if err != nil {
			return err
		}
		*at.show = &show{out: out, h: h, prompt: at.name}
		for _, n := range []*underlay.Network{lan, wan} {
			if _, err := n.Attach(ctx, h, underlay.PortConfig{}); err != nil {
				return err
			}
		}
		if _, err := h.Install(ctx, "snapctl-directory"); err != nil {
			return err
		}
		if err := h.StartDaemon(ctx, host.Daemon{}); err != nil {
			return err
		}
	}
	for _, scene := range []func(context.Context) error{d.join, d.firstPacket, d.taken, d.moved} {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	return d.end(ctx)
}

// join makes one installation of both hosts.
func (d *hosts) join(ctx context.Context) error {
	d.say("Part two. Two scratch hosts, each on two networks. They share their virtual network.")
	if err := d.snapctl(ctx, "host", "init"); err != nil {
		return err
	}
	var invitation struct {
		Token     string   `json:"token"`
		Addresses []string `json:"addresses"`
	}
	r, err := d.h.Snapctl(ctx, "host", "invite", "--output", "json")
	if err == nil {
		err = json.Unmarshal([]byte(r.Stdout), &invitation)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out, "alpha$ snapctl host invite\n...")
	if err := d.beta.snapctl(ctx, "host", "join", invitation.Addresses[0], invitation.Token); err != nil {
		return err
	}
	if err := d.beta.snapctl(ctx, "run", "--name", "store", "--", "redis-server", "--save", "", "--protected-mode", "no"); err != nil {
		return err
	}
	if err := d.snapctl(ctx, "run", "--name", "client", "--", "sleep", "inf"); err != nil {
		return err
	}
	if d.store, err = d.beta.address(ctx, "store"); err != nil {
		return err
	}
	return d.until(ctx, "alpha knows the app of beta", func() (bool, error) {
		r, err := d.h.Snapctl(ctx, "vem", "resolve", "store")
		return r.Code == 0, err
	})
}

// firstPacket follows the first packet from the one app to the other.
func (d *hosts) firstPacket(ctx context.Context) error {
	if err := d.snapctl(ctx, "host", "ls"); err != nil {
		return err
	}
	d.say("No packet has gone from client to store yet, and no channel is up. The first packet brings one up:")
	if err := d.snapctl(ctx, "vem", "trace", "store", "--from", "client"); err != nil {
		return err
	}
	return d.snapctl(ctx, "vem", "channels")
}

// taken takes the channel down under a client that counts.
func (d *hosts) taken(ctx context.Context) error {
	d.say("A client on alpha counts in the store on beta, 100 times a second over one connection.")
	if err := d.snapctl(ctx, "run", "--name", "counter", "--", "redis-cli", "-h", d.store, "-r", "-1", "-i", "0.01", "INCR", "hits"); err != nil {
		return err
	}
	if err := d.counts(ctx); err != nil {
		return err
	}
	d.say("The channel is taken down in the middle of it. The next packet brings it up again, and nobody is told:")
	if err := d.snapctl(ctx, "vem", "channels", "down", "beta"); err != nil {
		return err
	}
	if err := d.counts(ctx); err != nil {
		return err
	}
	if err := d.snapctl(ctx, "vem", "channels"); err != nil {
		return err
	}
	return d.snapctl(ctx, "vem", "table", "counter")
}

// moved moves the store under the client.
func (d *hosts) moved(ctx context.Context) error {
	d.say("The store moves to alpha, with its memory and the client's connection:")
	if err := d.beta.snapctl(ctx, "migrate", "store", "--to", "alpha"); err != nil {
		return err
	}
	if err := d.snapctl(ctx, "ps"); err != nil {
		return err
	}
	if err := d.counts(ctx); err != nil {
		return err
	}
	d.say("The client counts on, and the store moves back:")
	if err := d.snapctl(ctx, "migrate", "store", "--to", "beta"); err != nil {
		return err
	}
	return d.counts(ctx)
}

// counts waits until the client has counted on.
func (d *hosts) counts(ctx context.Context) error {
	before, err := d.counted(ctx)
	if err != nil {
		return err
	}
	err = d.until(ctx, "the client counts on", func() (bool, error) {
		n, err := d.counted(ctx)
		return n >= before+20, err
	})
	if err != nil {
		err = errors.Join(err, d.snapctl(ctx, "logs", "--tail", "5", "counter"), d.snapctl(ctx, "vem", "table"))
	}
	return err
}

// counted is how far the client has counted. It fails if a number is missing, or comes twice.
func (d *hosts) counted(ctx context.Context) (n int, err error) {
	r, err := d.h.Snapctl(ctx, "logs", "counter")
	if err != nil {
		return 0, err
	}
	whole, _, _ := cutLast(r.Stdout, "\n") // the last line may be half a number
	for line := range strings.Lines(whole) {
		if got, err := strconv.Atoi(strings.TrimSpace(line)); err != nil || got != n+1 {
			return n, fmt.Errorf("the client saw %q after %d", strings.TrimSpace(line), n)
		}
		n++
	}
	return n, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// until asks again until something is so.
func (d *hosts) until(ctx context.Context, what string, is func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := is(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		}
	}
}

// end tells what came of it, and removes the apps.
func (d *hosts) end(ctx context.Context) error {
	n, err := d.counted(ctx)
	if err != nil {
		return err
	}
	d.say("The client has counted to %d over one connection: no number lost, none twice.", n)
	for _, app := range []string{"counter", "client"} {
		if err := d.quiet(ctx, "rm", "--force", app); err != nil {
			return err
		}
	}
	return d.beta.quiet(ctx, "rm", "--force", "store")
}
