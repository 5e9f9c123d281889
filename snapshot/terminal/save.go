package terminal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Record is a file that lists the terminals that were changed for a dump, with what
// waits in them. It is there as long as something has to be put back, also by another
// process than the one that wrote it.
type Record string

// Save takes what waits in the terminals of frozen processes out of the terminals, and
// returns the terminals of which CRIU would lose something. root is one of the processes. The
// processes may go on only after PutBack, also if Save fails.
//
// If this process is killed while it reads what waits in a terminal, that is lost: a
// terminal can't be read twice.
func (r Record) Save(ctx context.Context, root int, pids []int) ([]Pair, error) {
	pairs, err := Pairs(ctx, root, pids)
	if err != nil || len(pairs) == 0 {
		return nil, err
	}
	if err := r.write(pairs); err != nil {
		return nil, err
	}
	outer, err := outerPIDs(pids)
	if err != nil {
		return nil, err
	}
	for i := range pairs {
		p := &pairs[i]
		err := p.drain(outer[p.PID])
		if len(p.Input) > 0 || len(p.Output) > 0 || p.Exclusive {
			err = errors.Join(err, r.write(pairs))
		}
		if err != nil {
			return nil, err
		}
	}
	var special []Pair
	for i := range pairs {
		if pairs[i].Special() {
			special = append(special, pairs[i])
		}
	}
	return special, nil
}

func (r Record) write(pairs []Pair) error {
	b, err := json.Marshal(pairs)
	if err != nil {
		return fmt.Errorf("list terminals: %w", err)
	}
	aside := string(r) + ".new"
	if err := os.WriteFile(aside, b, 0o600); err != nil {
		return fmt.Errorf("list terminals: %w", err)
	}
	if err := os.Rename(aside, string(r)); err != nil {
		return fmt.Errorf("list terminals: %w", err)
	}
	return nil
}

// PutBack undoes Save, if it was called. The processes are frozen, or have ended.
func (r Record) PutBack(pids []int) error {
	b, err := os.ReadFile(string(r))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read list of terminals: %w", err)
	}
	var pairs []Pair
	if err := json.Unmarshal(b, &pairs); err != nil {
		return errors.Join(fmt.Errorf("read list of terminals: %w", err), os.Remove(string(r)))
	}
	// First it goes: what waits is rather lost than there twice.
	if err := os.Remove(string(r)); err != nil {
		return fmt.Errorf("remove list of terminals: %w", err)
	}
	return PutBack(pids, pairs)
}

// PutBack puts what waited in terminals into those of processes that were restored and
// do not run yet, or were frozen.
func PutBack(pids []int, pairs []Pair) error {
	if len(pairs) == 0 {
		return nil
	}
	outer, err := outerPIDs(pids)
	if err != nil {
		return err
	}
	var errs []error
	for i := range pairs {
		if pid, ok := outer[pairs[i].PID]; ok { // else it has ended
			errs = append(errs, pairs[i].putBack(pid))
		}
	}
	return errors.Join(errs...)
}

// outerPIDs has the ids of processes by those that they have in the app.
func outerPIDs(pids []int) (map[int]int, error) {
	outer := make(map[int]int, len(pids))
	for _, pid := range pids {
		inner, err := innerPID(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		outer[inner] = pid
	}
	return outer, nil
}
