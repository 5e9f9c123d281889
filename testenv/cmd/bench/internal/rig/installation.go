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
	return WithHost(ctx, host.Config{Name: "alpha"}, func(alpha *World) error {
		return WithHost(ctx, host.Config{Name: "beta"}, func(beta *World) error {
			cable, err := alpha.Link(ctx, beta.Host, netip.MustParsePrefix("192.0.2.0/24"))
			if err != nil {
				return err
			}
			if err := alpha.invite(ctx, beta, cable); err != nil {
				return err
			}
			return fn(alpha, beta, cable)
		})
	})
}

// invite makes an installation of the host and another one.
func (w *World) invite(ctx context.Context, other *World, cable *host.Link) error {
	for _, h := range []*World{w, other} {
		if _, err := h.Install(ctx, "snapctl-directory"); err != nil {
			return err
		}
	}
	if _, err := w.command(ctx, "host", "init", "--address", cable.A.String()); err != nil {
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
	_, err = other.command(ctx, "host", "join", cable.A.String(), invitation.Token, "--address", cable.B.String())
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
