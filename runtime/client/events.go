package client

import (
	"context"
	"errors"
	"io"

	"github.com/snapctl/snapctl/runtime/api"
)

// Events calls fn with each event that the request asks for, oldest first: those that the
// daemon keeps, and, if the request says to follow, those that happen from then on, until
// ctx ends. An error of fn ends it, too.
func (c *Client) Events(ctx context.Context, req *api.EventsRequest, fn func(*api.EventRecord) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream if fn fails
	defer cancel()
	s, err := c.api.Events(ctx, req)
	if err != nil {
		return err
	}
	for {
		e, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}
