package client

import (
	"context"

	"github.com/snapctl/snapctl/runtime/api"
)

// ListSnapshots returns all snapshots, by name.
func (c *Client) ListSnapshots(ctx context.Context) ([]*api.Snapshot, error) {
	r, err := c.api.ListSnapshots(ctx, &api.ListRequest{})
	return r.GetSnapshots(), err
}

// Inspect says what is in a snapshot, or in the images of a hibernated app.
func (c *Client) Inspect(ctx context.Context, name string) (*api.InspectResponse, error) {
	return c.api.Inspect(ctx, &api.InspectRequest{Snapshot: name})
}

// RemoveSnapshot removes a snapshot.
func (c *Client) RemoveSnapshot(ctx context.Context, name string) error {
	_, err := c.api.RemoveSnapshot(ctx, &api.RemoveSnapshotRequest{Name: name})
	return err
}
