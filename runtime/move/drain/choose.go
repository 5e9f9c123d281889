package drain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/vem/membership"
)

// target is a host that apps may move to, or why they may not.
type target struct {
	host string
	free int64 // bytes of memory
	why  string
}

// targetsOf are the hosts that a request allows, in the order of names. Returns an error if it names one that is none,
// or if there is no other host.
func targetsOf(all []membership.Host, self string, named []string) (list []target, err error) {
	known := make(map[string]bool)
	for _, h := range all {
		if h.Self || h.Name == self || h.Health == membership.Removed {
			continue
		}
		known[h.Name] = true
		if len(named) > 0 && !slices.Contains(named, h.Name) {
			continue
		}
		t := target{host: h.Name}
		switch {
		case h.Cordoned:
			t.why = "it is cordoned"
		case h.Health != membership.Up:
			t.why = "it is silent"
		}
		list = append(list, t)
	}
	for _, name := range named {
		if name == self {
			return nil, fmt.Errorf("host %s is the one that is drained: %w", name, errdefs.ErrInvalidArgument)
		}
		if !known[name] {
			return nil, fmt.Errorf("host %s: %w", name, errdefs.ErrNotFound)
		}
	}
	if len(list) == 0 {
		return nil, &membership.Error{Text: "there is no other host that its apps could move to", Remedy: "have one join: snapctl host invite"}
	}
	return list, nil
}

// look asks the targets that an app may move to how much room they have.
func (d *Drainer) look(ctx context.Context, targets []target) []target {
	list := slices.Clone(targets)
	var wait sync.WaitGroup
	for i := range list {
		if list[i].why != "" {
			continue
		}
		wait.Go(func() {
			var err error
			if list[i].free, err = d.opt.Available(ctx, list[i].host); err != nil {
				list[i].why = err.Error()
			}
		})
	}
	wait.Wait()
	return list
}

// choose returns the host with the most room for an app that uses so many bytes, of those that were not tried.
// coming is what is on the way to each. If there is none the targets say why.
func choose(targets []target, bytes int64, coming map[string]int64, tried map[string]bool) (string, []target) {
	list := slices.Clone(targets)
	var best *target
	for i := range list {
		t := &list[i]
		if t.why != "" || tried[t.host] {
			continue
		}
		if t.free -= coming[t.host]; t.free < bytes {
			t.why = fmt.Sprintf("the app uses %d MiB of memory, and it has %d MiB", bytes>>20, max(t.free, 0)>>20)
			continue
		}
		if best == nil || t.free > best.free {
			best = t
		}
	}
	if best == nil {
		return "", list
	}
	return best.host, nil
}

// noTarget is that no host takes an app.
func noTarget(targets []target, tried map[string]bool) error {
	var why []string
	for _, t := range targets {
		if !tried[t.host] {
			why = append(why, fmt.Sprintf("host %s: %s", t.host, cmp.Or(t.why, "it was not asked")))
		}
	}
	return errors.New("no host takes it: " + strings.Join(why, "; "))
}
