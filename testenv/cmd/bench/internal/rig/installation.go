package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/snapctl/snapctl/testenv/host"
)

// WithInstallation runs fn on two fresh hosts that are one installation, with a cable between them,
// and removes them.
func WithInstallation(ctx context.Context, fn func(alpha, beta *World, cable *host.Link) error) error {
	return WithCables(ctx, 1, func(alpha, beta *World, cables []*host.Link) error { return fn(alpha, beta, cables[0]) })
}

// WithCables does the same with several cables, the first of which are the better ones.
func WithCables(ctx context.Context, count int, fn func(alpha, beta *World, cables []*host.Link) error) error {
	return WithHost(ctx, host.Config{Name: "alpha"}, func(alpha *World) error {
		return WithHost(ctx, host.Config{Name: "beta"}, func(beta *World) error {
			var cables []*host.Link
			for i := range count {
				prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(16 * i)}), 28)
				cable, err := alpha.Link(ctx, beta.Host, prefix)
				if err != nil {
					return err
				}
				cables = append(cables, cable)
			}
			if err := alpha.invite(ctx, beta, cables); err != nil {
				return err
			}
			return fn(alpha, beta, cables)
		})
	})
}

// invite makes an installation of the host and another one.
func (w *World) invite(ctx context.Context, other *World, cables []*host.Link) error {
	init, join := []string{"host", "init"}, []string{"host", "join", cables[0].A.String()}
	var here, there []string
	for i, c := range cables {
		here = append(here, "--address", fmt.Sprintf("%s,priority=%d", c.A, i))
		there = append(there, "--address", fmt.Sprintf("%s,priority=%d", c.B, i))
	}
	for _, h := range []*World{w, other} {
		if _, err := h.Install(ctx, "snapctl-directory"); err != nil {
			return err
		}
	}
	if _, err := w.command(ctx, append(init, here...)...); err != nil {
		return err
	}
	out, err := w.command(ctx, "host", "invite", "-o", "json")
	if err != nil {
		return err
	}
	var invitation struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal([]byte(out), &invitation); err != nil {
		return fmt.Errorf("read invitation: %w", err)
	}
	_, err = other.command(ctx, append(append(join, invitation.Token), there...)...)
	return err
}

// command runs snapctl, which has to succeed, and returns what it printed.
func (w *World) command(ctx context.Context, args ...string) (string, error) {
	r, err := w.Snapctl(ctx, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("snapctl %v: %s", args, r.Stderr)
	}
	return r.Stdout, err
}
