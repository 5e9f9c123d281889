package overview

import (
	"context"
	"net"
	"sync"
)

// Dial tells which of some places accept connections.
func Dial(ctx context.Context, at []string) []Port {
	all := make([]Port, len(at))
	var wg sync.WaitGroup
	for n, place := range at {
		wg.Go(func() {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", place)
			if err == nil {
				err = c.Close()
			}
			all[n] = Port{At: place, Err: err}
		})
	}
	wg.Wait()
	return all
}
