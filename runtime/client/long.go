package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/api"
)

// ErrNoResult says that the daemon ended a long operation's events without its
// result.
var ErrNoResult = errors.New("no result from snapctld")

// Progress is told how a long operation goes on. May be nil.
type Progress func(*api.Progress)

// Hibernate saves an app, ends its processes and holds its sockets. If it fails
// the app runs as before.
//
// If ctx ends, the daemon undoes what it has begun, up to the point of no return.
func (c *Client) Hibernate(ctx context.Context, req *api.HibernateRequest, tell Progress) (*api.Result, error) {
	s, err := c.api.Hibernate(ctx, req)
	return follow(s, err, tell)
}

// Wake restores a hibernated app onto its held sockets. If it fails the app
// stays hibernated.
func (c *Client) Wake(ctx context.Context, req *api.WakeRequest, tell Progress) (*api.Result, error) {
	s, err := c.api.Wake(ctx, req)
	return follow(s, err, tell)
}

// Migrate moves an app to another host of the installation, with its connections. If it fails the app is as it
// was, on this host, unless the error says otherwise.
func (c *Client) Migrate(ctx context.Context, req *api.MigrateRequest, tell Progress) (*api.Result, error) {
	s, err := c.api.Migrate(ctx, req)
	return follow(s, err, tell)
}

// TakeSnapshot saves an app under a name. If it fails there is no snapshot and
// the app goes on.
func (c *Client) TakeSnapshot(ctx context.Context, req *api.SnapshotRequest, tell Progress) (*api.Result, error) {
	s, err := c.api.TakeSnapshot(ctx, req)
	return follow(s, err, tell)
}

// Restore makes an app of a snapshot. If it fails there is no such app. What
// became of the sockets is in the result.
func (c *Client) Restore(ctx context.Context, req *api.RestoreRequest, tell Progress) (*api.Result, error) {
	s, err := c.api.Restore(ctx, req)
	return follow(s, err, tell)
}

// follow reads the events of an operation to the end. opened is how the stream
// was opened.
func follow(s grpc.ServerStreamingClient[api.Event], opened error, tell Progress) (*api.Result, error) {
	return followTo(s, opened, tell, (*api.Event).GetProgress, (*api.Event).GetResult)
}

// followTo is follow for any kind of events, each of which has progress or the result.
func followTo[E, P, R any](s grpc.ServerStreamingClient[E], opened error, tell func(*P), progress func(*E) *P, result func(*E) *R) (*R, error) {
	if opened != nil {
		return nil, opened
	}
	var last *R
	for {
		e, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch r, p := result(e), progress(e); {
		case r != nil:
			last = r
		case p != nil && tell != nil:
			tell(p)
		}
	}
	if last == nil {
		return nil, fmt.Errorf("read events: %w", ErrNoResult)
	}
	return last, nil
}
