package underlay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Disturbance is a fault that was drawn by chance.
type Disturbance struct {
	what string
	end  func(context.Context) error
}

// String says what it is: "eth0 of alpha has no carrier".
func (d Disturbance) String() string { return d.what }

// End undoes it.
func (d Disturbance) End(ctx context.Context) error {
	if err := d.end(ctx); err != nil {
		return fmt.Errorf("end that %v: %w", d, err)
	}
	return nil
}

// Disturb draws a fault that hosts have to live with and makes it: a carrier that is
// gone, a cut in one direction or both, a loss of up to 40 %, frames that are late and
// out of order if the port has a line, or a partition. One is to end before the next:
// ending it takes all faults from the port, or ends any partition. The underlay needs a
// host with a port.
func (u *Underlay) Disturb(ctx context.Context, random *rand.Rand) (Disturbance, error) {
	var ports []*Port
	u.mu.Lock()
	for _, n := range u.nodes {
		if !n.forward {
			ports = append(ports, n.ports...)
		}
	}
	u.mu.Unlock()
	if len(ports) == 0 {
		return Disturbance{}, errors.New("disturb underlay: no host has a port")
	}
	p := ports[random.IntN(len(ports))]
	kinds := []func(*Port, *rand.Rand) (Disturbance, error){pull, cut, cut, lose, u.divide}
	if p.line != nil {
		kinds = append(kinds, late)
	}
	d, err := kinds[random.IntN(len(kinds))](p, random)
	if err != nil {
		return Disturbance{}, fmt.Errorf("disturb underlay: %w", errors.Join(err, d.end(ctx)))
	}
	return d, nil
}

func pull(p *Port, _ *rand.Rand) (Disturbance, error) {
	return Disturbance{fmt.Sprintf("%v has no carrier", p), p.Up}, p.Down()
}

func cut(p *Port, random *rand.Rand) (Disturbance, error) {
	d := Direction(random.IntN(3))
	return p.faulty(d, Faults{Cut: true}, fmt.Sprintf("%v is cut, direction %v", p, d))
}

func lose(p *Port, random *rand.Rand) (Disturbance, error) {
	d, f := Direction(random.IntN(3)), Faults{Loss: float64(1 + random.IntN(40)), Seed: random.Uint64()}
	return p.faulty(d, f, fmt.Sprintf("%v loses %v%%, direction %v", p, f.Loss, d))
}

func late(p *Port, random *rand.Rand) (Disturbance, error) {
	d, f := Direction(random.IntN(3)), Faults{
		Delay: time.Duration(random.IntN(50)) * time.Millisecond, Reorder: float64(random.IntN(20)), Seed: random.Uint64(),
	}
	return p.faulty(d, f, fmt.Sprintf("%v is %v late and reorders %v%%, direction %v", p, f.Delay, f.Reorder, d))
}

func (p *Port) faulty(d Direction, f Faults, what string) (Disturbance, error) {
	return Disturbance{what, func(context.Context) error { return p.Set(Both, Faults{}) }}, p.Set(d, f)
}

// divide puts the host of a port on one side, and each other node on either. All
// routers are on the other side.
func (u *Underlay) divide(p *Port, random *rand.Rand) (Disturbance, error) {
	sides := [2]Group{{p.node.Node}}
	u.mu.Lock()
	for _, n := range u.nodes {
		if n != p.node {
			side := random.IntN(2)
			if n.forward {
				side = 1
			}
			sides[side] = append(sides[side], n.Node)
		}
	}
	u.mu.Unlock()
	what := fmt.Sprintf("%v can't reach %v", sides[0], sides[1])
	return Disturbance{what, func(context.Context) error { return u.Partition() }}, u.Partition(sides[0], sides[1])
}

// String lists the names.
func (g Group) String() string {
	var names []string
	for _, n := range g {
		names = append(names, n.Name())
	}
	return strings.Join(names, ", ")
}
