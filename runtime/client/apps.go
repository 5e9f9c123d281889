package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/snapctl/snapctl/runtime/api"
)

// Run makes an app and starts its program.
func (c *Client) Run(ctx context.Context, req *api.RunRequest) (*api.App, error) {
	return c.api.Run(ctx, req)
}

// List returns all apps, by name.
func (c *Client) List(ctx context.Context) ([]*api.App, error) {
	r, err := c.api.List(ctx, &api.ListRequest{})
	return r.GetApps(), err
}

// Show returns one app.
func (c *Client) Show(ctx context.Context, app string) (*api.App, error) {
	return c.api.Show(ctx, &api.AppRequest{Name: app})
}

// Stop ends an app's program; its record, log and files stay.
func (c *Client) Stop(ctx context.Context, req *api.StopRequest) (*api.App, error) {
	return c.api.Stop(ctx, req)
}

// Remove removes an app and all that was its own.
func (c *Client) Remove(ctx context.Context, req *api.RemoveRequest) error {
	_, err := c.api.Remove(ctx, req)
	return err
}

// IDs returns the id map of an app.
func (c *Client) IDs(ctx context.Context, app string) ([]*api.Id, error) {
	r, err := c.api.Ids(ctx, &api.AppRequest{Name: app})
	return r.GetIds(), err
}

// VemTable returns the translation table: of one app or network, or of all if
// the request names none.
func (c *Client) VemTable(ctx context.Context, req *api.VemTableRequest) ([]*api.VemRow, error) {
	r, err := c.api.VemTable(ctx, req)
	return r.GetRows(), err
}

// Logs writes what an app has printed to w; if the request says to follow, also
// what it prints from then on, until the app or ctx ends.
func (c *Client) Logs(ctx context.Context, req *api.LogsRequest, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream if w fails
	defer cancel()
	s, err := c.api.Logs(ctx, req)
	if err != nil {
		return err
	}
	for {
		chunk, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(chunk.GetData()); err != nil {
			return fmt.Errorf("write log: %w", err)
		}
	}
}
