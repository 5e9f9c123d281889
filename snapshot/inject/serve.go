package inject

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/freezer"
)

// Serve is the whole of the tracer's process: it does what is asked at in, and answers at out, until
// there is no more, or processes can't be stopped. Then nothing is stopped any more. Its goroutine must be locked to its thread, since
// ptrace(2) is between threads.
func Serve(in io.Reader, out io.Writer) error {
	// A daemon that ends closes out, and who ends the daemon may send signals to us, too. We end when
	// in does, and not in the middle of a call.
	signal.Ignore(unix.SIGPIPE, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	dec, enc := gob.NewDecoder(in), gob.NewEncoder(out)
	var s session
	for {
		var r request
		if err := dec.Decode(&r); err != nil {
			err = nil // the daemon has ended, or needs us no more
			return errors.Join(err, s.release())
		}
		if err := enc.Encode(s.do(r)); err != nil {
			return errors.Join(fmt.Errorf("answer: %w", err), s.release())
		}
		if r.Stop != nil && s.processes == nil {
			return nil // and the kernel lets go of threads that did not stop
		}
	}
}

// session is what is stopped.
type session struct {
	cgroup    string
	processes map[int]*process
}

func (s *session) do(r request) *answer {
	a := &answer{}
	var err error
	switch {
	case r.Stop != nil:
		a.Places, err = s.stop(*r.Stop)
	case r.Release:
		err = s.release()
	default:
		p := s.processes[r.PID]
		if p == nil {
			err = errors.New("it is not stopped")
			break
		}
		a.Results, err = p.calls(r.Calls)
	}
	if err != nil {
		a.Err, a.Unsupported = err.Error(), errors.Is(err, ErrUnsupported)
	}
	return a
}

func (s *session) stop(o stop) (_ map[int]place, err error) {
	if s.processes != nil {
		return nil, errors.New("processes are stopped already")
	}
	s.cgroup, s.processes = o.Cgroup, make(map[int]*process)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	for _, target := range o.Targets {
		p := &process{pid: target.PID, alone: o.Cgroup == ""}
		s.processes[p.pid] = p
		if err := p.seize(); err != nil {
			return nil, fmt.Errorf("process %d: %w", p.pid, err)
		}
	}
	for _, p := range s.processes {
		if err := p.await(); err != nil {
			return nil, fmt.Errorf("process %d: %w", p.pid, err)
		}
	}
	if err := s.complete(); err != nil {
		return nil, err
	}
	if err := s.freeze(false); err != nil {
		return nil, err
	}
	places := make(map[int]place)
	for _, target := range o.Targets {
		if places[target.PID], err = s.processes[target.PID].enter(target.Above); err != nil {
			return nil, fmt.Errorf("process %d: %w", target.PID, err)
		}
	}
	return places, nil
}

// complete checks that all processes of the cgroup are stopped.
func (s *session) complete() error {
	if s.cgroup == "" {
		return nil
	}
	pids, err := freezer.Cgroup(s.cgroup).PIDs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if s.processes[pid] == nil {
			return fmt.Errorf("process %d is in the cgroup, too, and would run", pid)
		}
	}
	return nil
}

// release puts everything back and lets go.
func (s *session) release() error {
	var errs []error
	for _, p := range s.processes {
		if err := p.leave(); err != nil {
			errs = append(errs, fmt.Errorf("process %d: %w", p.pid, err))
		}
	}
	if s.processes != nil {
		errs = append(errs, s.freeze(true))
	}
	for _, p := range s.processes {
		errs = append(errs, p.detach())
	}
	s.processes = nil
	return errors.Join(errs...)
}
