package server

import (
	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/restorable"
)

// showObstacles tells what keeps a saved app from coming back.
func showObstacles(all []restorable.Obstacle) []*api.Obstacle {
	var out []*api.Obstacle
	for _, o := range all {
		shown := &api.Obstacle{Path: o.Path, Reason: o.Reason, Remedy: o.Remedy}
		if o.Err != nil {
			shown.Remedy = Hint(o.Err)
		}
		out = append(out, shown)
	}
	return out
}

func obstacleText(o *api.Obstacle) string {
	if o.GetRemedy() == "" {
		return o.GetReason()
	}
	return o.GetReason() + "; " + o.GetRemedy()
}

// parallelLooks is how many saved apps are looked at at the same time.
const parallelLooks = 4

// lookAtAll looks at many saved apps, several at the same time.
func lookAtAll(n int, look func(i int)) {
	var g errgroup.Group
	g.SetLimit(parallelLooks)
	for i := range n {
		g.Go(func() error {
			look(i)
			return nil
		})
	}
	_ = g.Wait() // there are no errors
}
