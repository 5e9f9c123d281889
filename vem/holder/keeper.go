package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/pause"
)

// ErrDown says that the holder has ended and no other one could be started.
var ErrDown = errors.New("there is no holder")

// errKeeperClosed is a request to a keeper whose work has ended.
var errKeeperClosed = errors.New("the keeper of the holder is closed")

// KeeperOptions says which holder a [Keeper] keeps running.
type KeeperOptions struct {
	Exe     string // as for [Spawn]
	Socket  string
	LogPath string

	// Refill puts into a new holder, which keeps nothing, all that its caller
	// still has of what the last one kept. Other requests of the keeper go on
	// meanwhile: it is for the caller that no Drop of an app comes before its
	// Put here. If it fails it is called again, after a pause, for as long as
	// that holder lives. May be nil.
	Refill func(ctx context.Context, s Store) error

	Log *slog.Logger
}

// Keeper is a [Store] in a holder process that is started again whenever it
// ends, however that happens. The caller always has duplicates of the files that it has
// put, so nothing is lost:
//
//	         holder ends          another one answers      refilled
//	up ───────────────▶ starting ───────────────────▶ up ────────────▶ up
//	                     │    ▲
//	    can't be started ▼    │ after a pause
//	                      down
//
// A request that comes, or is under way, while a holder is being started waits
// for it and is done then; while there is none, Put, Get and List fail with an
// error wrapping [ErrDown], and Drop has nothing to do.
//
// The end of the process is an event (pidfd, Linux 5.3); nothing is polled.
type Keeper struct {
	opt    KeeperOptions
	client *Client
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned

	mu     sync.Mutex
	state  keeperState
	change chan struct{} // closed at the next change of state
}

// keeperState is where a keeper is: up with a process, down with an error, or
// starting with neither.
type keeperState struct {
	proc *process
	err  error
}

const (
	startTime = 10 * time.Second // for a holder to be started
	endTime   = 10 * time.Second // for a holder that hung up to have ended: it closes all it kept
)

// Keep returns a keeper of the holder at opt.Socket, and starts that if it does
// not run. What it keeps by then is left as it is, and is not refilled if it
// ends before the caller has got it. The keeper's work ends with ctx or Close.
func Keep(ctx context.Context, opt KeeperOptions) (*Keeper, error) {
	k := &Keeper{opt: opt, client: &Client{path: opt.Socket}, done: make(chan struct{}), change: make(chan struct{})}
	proc, err := k.start(ctx)
	if err != nil {
		return nil, err
	}
	k.state.proc = proc
	ctx, k.cancel = context.WithCancel(ctx)
	go k.run(ctx, proc)
	return k, nil
}

// Close ends the keeper's work, and waits for its end. The holder goes on.
func (k *Keeper) Close() error {
	k.cancel()
	<-k.done
	return nil
}

// PID is the holder process; 0 while there is none.
func (k *Keeper) PID() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state.proc == nil {
		return 0
	}
	return k.state.proc.pid
}

// start finds the holder process, or makes one.
func (k *Keeper) start(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := Spawn(ctx, k.opt.Exe, k.opt.Socket, k.opt.LogPath); err != nil {
		return nil, err
	}
	return find(ctx, k.client)
}

func (k *Keeper) set(s keeperState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = s
	close(k.change)
	k.change = make(chan struct{})
}

func (k *Keeper) get() (keeperState, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state, k.change
}

// run has each holder followed by another one.
func (k *Keeper) run(ctx context.Context, proc *process) {
	defer close(k.done)
	for {
		select {
		case <-proc.ended:
		case <-ctx.Done():
			proc.close() //nolint:errcheck // a handle
			return
		}
		k.opt.Log.ErrorContext(ctx, "the holder has ended: starting another one", slog.Int("pid", proc.pid), slog.String("log", k.opt.LogPath))
		proc.close() //nolint:errcheck // a handle
		k.set(keeperState{})
		if proc = k.replace(ctx); proc == nil {
			return
		}
		k.set(keeperState{proc: proc})
		k.refill(ctx, proc)
	}
}

// replace starts another holder. It returns nil if ctx has ended.
func (k *Keeper) replace(ctx context.Context) *process {
	for failures := 0; ; failures++ {
		proc, err := k.start(ctx)
		if err == nil {
			return proc
		}
		k.set(keeperState{err: err})
		if ctx.Err() != nil {
			return nil
		}
		k.opt.Log.ErrorContext(ctx, "start another holder: held sockets are lost if this process ends now", slog.Any("error", err))
		if !pause.For(ctx, rest(failures), nil) {
			return nil
		}
	}
}

// refill has a new holder keep again what the last one kept.
func (k *Keeper) refill(ctx context.Context, proc *process) {
	for failures := 0; ; failures++ {
		began := time.Now()
		var err error
		if k.opt.Refill != nil {
			err = k.opt.Refill(ctx, k.client)
		}
		if err == nil {
			k.opt.Log.InfoContext(ctx, "another holder keeps the sockets", slog.Int("pid", proc.pid), slog.Duration("took", time.Since(began)))
			return
		}
		if ctx.Err() != nil {
			return
		}
		k.opt.Log.ErrorContext(ctx, "hand sockets to another holder", slog.Int("pid", proc.pid), slog.Any("error", err))
		if !pause.For(ctx, rest(failures), proc.ended) {
			return
		}
	}
}

// rest is how long to wait after so many failures in a row.
func rest(failures int) time.Duration {
	return min(100*time.Millisecond<<min(failures, 10), time.Minute)
}

// up waits until a holder answers or can't be started.
func (k *Keeper) up(ctx context.Context) (*process, error) {
	for {
		s, change := k.get()
		switch {
		case s.proc != nil:
			return s.proc, nil
		case s.err != nil:
			return nil, fmt.Errorf("%w: %w", ErrDown, s.err)
		}
		select {
		case <-change:
		case <-k.done:
			return nil, errKeeperClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another holder: %w", ctx.Err())
		}
	}
}

// Ready waits until a holder answers, as requests do. It is for a caller that wants to wait
// before it freezes an app, and not while the app stands still. Returns an error wrapping
// [ErrDown] if no holder can be started.
func (k *Keeper) Ready(ctx context.Context) error {
	_, err := k.up(ctx)
	return err
}

// try makes a request, again if the holder ends under it: a holder that has ended
// keeps nothing, so the request was as if never made.
func (k *Keeper) try(ctx context.Context, ask func() error) error {
	for {
		proc, err := k.up(ctx)
		if err != nil {
			return err
		}
		err = ask()
		if err == nil || !hungUp(err) || !ends(ctx, proc) {
			return err
		}
		if err := k.leave(ctx, proc); err != nil {
			return err
		}
	}
}

// hungUp tells whether a request failed because the holder has ended, or is about
// to: the kernel closes its sockets first (kernel/exit.c, do_exit).
func hungUp(err error) bool {
	for _, sign := range []error{io.ErrUnexpectedEOF, io.EOF, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, unix.ENOTCONN} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}

// ends waits for the end of a holder that hung up, but not for that of one which
// had another reason.
func ends(ctx context.Context, proc *process) bool {
	t := time.NewTimer(endTime)
	defer t.Stop()
	select {
	case <-proc.ended:
		return true
	case <-t.C:
		return false
	case <-ctx.Done():
		return false
	}
}

// leave waits until a process that has ended is no longer the holder.
func (k *Keeper) leave(ctx context.Context, proc *process) error {
	for {
		s, change := k.get()
		if s.proc != proc {
			return nil
		}
		select {
		case <-change:
		case <-k.done:
			return errKeeperClosed
		case <-ctx.Done():
			return fmt.Errorf("wait for another holder: %w", ctx.Err())
		}
	}
}

// Put implements [Store].
func (k *Keeper) Put(ctx context.Context, app string, items []Item) error {
	return k.try(ctx, func() error { return k.client.Put(ctx, app, items) })
}

// Get implements [Store].
func (k *Keeper) Get(ctx context.Context, app string) (items []Item, err error) {
	err = k.try(ctx, func() error {
		items, err = k.client.Get(ctx, app)
		return err
	})
	return items, err
}

// Drop implements [Store].
func (k *Keeper) Drop(ctx context.Context, app string) error {
	err := k.try(ctx, func() error { return k.client.Drop(ctx, app) })
	if errors.Is(err, ErrDown) {
		return nil
	}
	return err
}

// List implements [Store].
func (k *Keeper) List(ctx context.Context) (apps map[string]int, err error) {
	err = k.try(ctx, func() error {
		apps, err = k.client.List(ctx)
		return err
	})
	return apps, err
}

var _ Store = (*Keeper)(nil)
