package client

import (
	"context"

	"github.com/snapctl/snapctl/runtime/api"
)

// Doctor checks what the daemon needs of its host.
func (c *Client) Doctor(ctx context.Context) ([]*api.Check, error) {
	r, err := c.api.Doctor(ctx, &api.DoctorRequest{})
	return r.GetChecks(), err
}

// Version tells which daemon this is and what it works with.
func (c *Client) Version(ctx context.Context) (*api.VersionResponse, error) {
	return c.api.Version(ctx, &api.VersionRequest{})
}
