package client

import (
	"context"

	"github.com/snapctl/snapctl/runtime/api"
)

// DrainHost has this host give all its apps to others, and returns what became of them. tell is told how it goes on;
// may be nil. When stop is closed no more apps begin to move, and it returns when those that do have ended. If ctx
// ends that happens too, and nobody is told what became of them.
func (c *Client) DrainHost(ctx context.Context, req *api.DrainRequest, stop <-chan struct{}, tell func(*api.DrainProgress)) (*api.DrainResult, error) {
	s, err := c.api.DrainHost(ctx)
	if err != nil {
		return nil, err
	}
	_ = s.Send(req) // what is wrong is told to who receives
	ended, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		select {
		case <-stop:
			_ = s.Send(&api.DrainRequest{Stop: true})
		case <-ended:
		}
	}()
	defer func() {
		close(ended)
		<-told
	}()
	return followTo(s, nil, tell, (*api.DrainEvent).GetProgress, (*api.DrainEvent).GetResult)
}
