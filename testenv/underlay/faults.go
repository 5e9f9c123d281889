package underlay

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Direction is that of frames, seen from who has the port.
type Direction int

// The directions.
const (
	Out  Direction = iota // from the host or router into the network
	In                    // from the network to the host or router
	Both                  // either
)

func (d Direction) String() string {
	switch d {
	case Out:
		return "out"
	case In:
		return "in"
	case Both:
		return "both"
	}
	return fmt.Sprintf("Direction(%d)", int(d))
}

// each lists the single directions that d stands for.
func (d Direction) each() ([]Direction, error) {
	switch d {
	case Out, In:
		return []Direction{d}, nil
	case Both:
		return []Direction{Out, In}, nil
	}
	return nil, fmt.Errorf("there is no %v", d)
}

// Faults is what goes wrong in one direction of a port. The zero value is: nothing.
type Faults struct {
	Cut bool // nothing comes through, and nobody is told

	// Loss is the percentage of frames that are lost, each by chance. Which ones
	// follows from Seed and from how many came since the faults were set.
	Loss float64
	Seed uint64

	// The rest needs a port with a line, see PortConfig. On a line there are at
	// most 4096 frames at a time: what comes then is lost.

	Delay time.Duration // of each frame; their order stays
	Rate  int64         // bytes a second, Ethernet headers included; 0: no limit
	// Reorder is the percentage of frames, chosen by Seed too, that are held back
	// until three later ones have overtaken them, or, if too few come, a tenth of a
	// second.
	Reorder float64
}

// ErrNoLine says that a port has no line, which late or reordered frames need.
var ErrNoLine = errors.New("the port has no line (PortConfig.Line)")

func (f Faults) check(hasLine bool) error {
	percentage := func(v float64) bool { return v >= 0 && v <= 100 }
	switch {
	case !percentage(f.Loss) || !percentage(f.Reorder):
		return fmt.Errorf("a loss of %v%% or a reordering of %v%% is no percentage", f.Loss, f.Reorder)
	case f.Delay < 0 || f.Rate < 0:
		return fmt.Errorf("a delay of %v or a rate of %d is negative", f.Delay, f.Rate)
	case !hasLine && (f.Delay > 0 || f.Rate > 0 || f.Reorder > 0):
		return ErrNoLine
	}
	return nil
}

// setting is what the programs do of it.
func (f Faults) setting() setting {
	s := setting{Loss: threshold(f.Loss), Seed: f.Seed}
	if f.Cut {
		s.Cut = 1
	}
	return s
}

// threshold is a percentage as a part of 1<<32.
func threshold(percent float64) uint64 { return uint64(math.Round(percent / 100 * wholeLoss)) }

// Counters says what happened in one direction of a port since its faults were set.
type Counters struct {
	Seen       uint64 // frames that came to the network's end of the port
	Dropped    uint64 // of these, by a cut, a loss or a partition
	Overflowed uint64 // frames that a full line lost, on either side of that
}

// Set replaces the faults of a direction, or of both, and begins its counters anew.
// Frames that are on a line already go on as they were to. If it fails, some of the
// faults may be in force.
func (p *Port) Set(d Direction, f Faults) error {
	err := p.change(d, func(Faults) Faults { return f })
	if err != nil {
		return fmt.Errorf("set faults of %v: %w", p, err)
	}
	return nil
}

// Cut pulls the cable out of a direction, or of both, while the device stays up.
// Other faults stay, for when it is mended.
func (p *Port) Cut(d Direction) error {
	err := p.change(d, func(f Faults) Faults { f.Cut = true; return f })
	if err != nil {
		return fmt.Errorf("cut %v: %w", p, err)
	}
	return nil
}

// Mend undoes Cut.
func (p *Port) Mend(d Direction) error {
	err := p.change(d, func(f Faults) Faults { f.Cut = false; return f })
	if err != nil {
		return fmt.Errorf("mend %v: %w", p, err)
	}
	return nil
}

// change changes the faults of each direction that d stands for.
func (p *Port) change(d Direction, to func(Faults) Faults) error {
	list, err := d.each()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range list {
		f := to(p.faults[d])
		if err := f.check(p.line != nil); err != nil {
			return err
		}
		if p.line != nil {
			p.line.lanes[d].set(f)
		}
		at := slot(p.number, d)
		if err := p.net.taps.counters.Put(at, counters{}); err != nil {
			return err
		}
		if err := p.net.taps.settings.Put(at, f.setting()); err != nil {
			return err
		}
		p.faults[d] = f
	}
	return nil
}

// Counters returns what happened in a direction, Out or In.
func (p *Port) Counters(d Direction) (Counters, error) {
	if d != Out && d != In {
		return Counters{}, fmt.Errorf("count frames of %v: want Out or In", p)
	}
	var c counters
	if err := p.net.taps.counters.Lookup(slot(p.number, d), &c); err != nil {
		return Counters{}, fmt.Errorf("count frames of %v: %w", p, err)
	}
	all := Counters{Seen: c.Seen, Dropped: c.Dropped}
	if p.line != nil {
		all.Overflowed = p.line.lanes[d].overflow()
	}
	return all, nil
}
