package client

import (
	"context"

	"github.com/snapctl/snapctl/runtime/api"
)

// TransferProgress is told how far a transfer is. May be nil.
type TransferProgress func(*api.TransferProgress)

// PushSnapshot takes a snapshot to another host of the installation. If it fails, or ctx ends, nothing is
// left there.
func (c *Client) PushSnapshot(ctx context.Context, req *api.TransferRequest, tell TransferProgress) (*api.TransferResult, error) {
	s, err := c.api.PushSnapshot(ctx, req)
	return followTo(s, err, tell, (*api.TransferEvent).GetProgress, (*api.TransferEvent).GetResult)
}

// PullSnapshot gets a snapshot from another host of the installation. If it fails, or ctx ends, nothing
// is left here.
func (c *Client) PullSnapshot(ctx context.Context, req *api.TransferRequest, tell TransferProgress) (*api.TransferResult, error) {
	s, err := c.api.PullSnapshot(ctx, req)
	return followTo(s, err, tell, (*api.TransferEvent).GetProgress, (*api.TransferEvent).GetResult)
}

// PushTemplate takes a template to another host of the installation. If it fails, or ctx ends, nothing is
// left there.
func (c *Client) PushTemplate(ctx context.Context, req *api.TransferRequest, tell TransferProgress) (*api.TransferResult, error) {
	s, err := c.api.PushTemplate(ctx, req)
	return followTo(s, err, tell, (*api.TransferEvent).GetProgress, (*api.TransferEvent).GetResult)
}

// PullTemplate gets a template from another host of the installation. If it fails, or ctx ends, nothing
// is left here.
func (c *Client) PullTemplate(ctx context.Context, req *api.TransferRequest, tell TransferProgress) (*api.TransferResult, error) {
	s, err := c.api.PullTemplate(ctx, req)
	return followTo(s, err, tell, (*api.TransferEvent).GetProgress, (*api.TransferEvent).GetResult)
}
