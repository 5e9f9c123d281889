package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/runtime/api"
)

// CreateTemplate makes a template of an app or of a snapshot. If it fails there
// is no template, and the app goes on.
func (c *Client) CreateTemplate(ctx context.Context, req *api.CreateTemplateRequest, tell Progress) (*api.Result, error) {
	s, err := c.api.CreateTemplate(ctx, req)
	return follow(s, err, tell)
}

// ListTemplates returns all templates, by name.
func (c *Client) ListTemplates(ctx context.Context) ([]*api.Template, error) {
	r, err := c.api.ListTemplates(ctx, &api.ListRequest{})
	return r.GetTemplates(), err
}

// ShowTemplate returns one template.
func (c *Client) ShowTemplate(ctx context.Context, name string) (*api.Template, error) {
	return c.api.ShowTemplate(ctx, &api.TemplateRequest{Name: name})
}

// RemoveTemplate removes a template that has no clones, and its pool.
func (c *Client) RemoveTemplate(ctx context.Context, name string) error {
	_, err := c.api.RemoveTemplate(ctx, &api.TemplateRequest{Name: name})
	return err
}

// SetPool says how many clones of a template stand ready. It does not wait for
// them.
func (c *Client) SetPool(ctx context.Context, req *api.SetPoolRequest) (*api.Template, error) {
	return c.api.SetPool(ctx, req)
}

// CloneWatch is told how clones come to be. Each of its functions may be nil.
type CloneWatch struct {
	Progress func(*api.CloneProgress)
	Result   func(*api.CloneResult) // of each clone, as soon as it is done
}

// Clone makes apps of a template. Unless the request says to keep going, either
// all of them exist afterwards or none; then the error is that of the first one
// that failed. With it, the error is nil even if all have failed: the results
// say so, and [CloneError] makes errors of them.
//
// If ctx or the request's time ends, the daemon removes the clones that it has made
// so far; but if the request says to keep going those that are ready stay, and the
// results of the others say that there was no time for them.
func (c *Client) Clone(ctx context.Context, req *api.CloneRequest, watch CloneWatch) (*api.CloneSummary, error) {
	s, err := c.api.Clone(ctx, req)
	if err != nil {
		return nil, err
	}
	var summary *api.CloneSummary
	for {
		e, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch {
		case e.GetSummary() != nil:
			summary = e.GetSummary()
		case e.GetResult() != nil && watch.Result != nil:
			watch.Result(e.GetResult())
		case e.GetProgress() != nil && watch.Progress != nil:
			watch.Progress(e.GetProgress())
		}
	}
	if summary == nil {
		return nil, fmt.Errorf("read events: %w", ErrNoResult)
	}
	return summary, nil
}

// CloneError is why there is no clone, an [*Error], or nil if there is one.
func CloneError(r *api.CloneResult) error {
	if r.GetCode() == int32(codes.OK) && r.GetError() == "" {
		return nil
	}
	code := codes.Code(r.GetCode())
	if code == codes.OK { // an error without a kind
		code = codes.Unknown
	}
	hints := metadata.MD{}
	hints.Append(hintKey, r.GetHints()...)
	return fromGRPC(status.Error(code, r.GetError()), hints)
}
