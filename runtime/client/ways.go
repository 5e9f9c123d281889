package client

import (
	"context"
	"errors"
	"io"

	"github.com/snapctl/snapctl/runtime/api"
)

// Channels returns the data channels to other hosts that are up, and those that were.
func (c *Client) Channels(ctx context.Context, req *api.ChannelsRequest) ([]*api.Channel, error) {
	r, err := c.api.ListChannels(ctx, req)
	return r.GetChannels(), err
}

// TakeChannelsDown takes channels down, and returns those that were up. Their endpoints are not
// told: the next packet brings a channel up again.
func (c *Client) TakeChannelsDown(ctx context.Context, req *api.ChannelsRequest) ([]*api.Channel, error) {
	r, err := c.api.TakeChannelsDown(ctx, req)
	return r.GetChannels(), err
}

// Resolve tells who has an endpoint.
func (c *Client) Resolve(ctx context.Context, req *api.ResolveRequest) (*api.ResolveResponse, error) {
	return c.api.Resolve(ctx, req)
}

// Trace follows the way to an endpoint, and tells each step as soon as it is done.
func (c *Client) Trace(ctx context.Context, req *api.TraceRequest, tell func(*api.TraceStep) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream if tell fails
	defer cancel()
	stream, err := c.api.Trace(ctx, req)
	if err != nil {
		return err
	}
	for {
		s, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := tell(s); err != nil {
			return err
		}
	}
}
