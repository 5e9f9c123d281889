package slowpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
)

// Path is the open slow path of one network. Its methods may be called at the same time.
type Path struct {
	options Options
	device  *device
	herald  *herald
	queues  *queues
	wait    func()             // for the goroutines of the queues
	cancel  context.CancelFunc // ends them

	done chan struct{} // closed when the reader has ended
	err  error         // why, then

	mu     sync.Mutex
	closed bool
	users  sync.WaitGroup // of the device, while it is open
}

// Open makes the network's slow path, or takes over what an earlier process left. From then on
// packets for which the fabric has no way come here; what waited in the device comes first.
//
// If it fails, a device that it made is gone again, and one that it found is kept. It returns an
// error wrapping [ErrOptions], or [ErrForeign]. ctx is for Open alone, but for its values.
//
// The caller closes the Path, before the fabric is deleted.
func Open(ctx context.Context, o Options) (*Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("open slow path of network %s: %w", o.Network, err)
	}
	o.Limits = o.Limits.withDefaults()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open slow path of network %s: %w", o.Network, err)
	}
	return p, nil
}

func start(ctx context.Context, o Options) (*Path, error) {
	h, err := openHerald(o.NS, o.Prefixes)
	if err != nil {
		return nil, err
	}
	d, err := openDevice(o)
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	p := &Path{options: o, device: d, herald: h, done: make(chan struct{})}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	p.queues, p.wait = newQueues(base, o, p.put, h.refuse)
	h.count = &p.queues.count
	if err := p.begin(ctx); err != nil {
		then := keeping
		if d.made {
			then = removing
		}
		return nil, errors.Join(err, p.stop(dropping, then))
	}
	go p.read(base)
	return p, nil
}

// begin does what comes before the first packet is read.
func (p *Path) begin(ctx context.Context) error {
	for _, a := range p.options.Gated {
		if err := p.queues.gate(ctx, a); err != nil {
			return err
		}
	}
	if p.options.SetUp != nil {
		if err := p.options.SetUp(ctx, fabric.SlowDevice); err != nil {
			return fmt.Errorf("set up device %s: %w", fabric.SlowDevice, err)
		}
	}
	return p.device.route(p.options.Prefixes)
}

// put gives a frame to the kernel.
func (p *Path) put(raw []byte) error {
	_, err := p.device.file.Write(raw)
	return err
}

// read takes in what comes out of the device, until that is closed or gone.
func (p *Path) read(ctx context.Context) {
	defer close(p.done)
	raw := make([]byte, p.options.MTU+ethLen)
	for {
		n, err := p.device.file.Read(raw)
		if err == nil {
			p.take(raw[:n])
			continue
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return
		case p.device.gone():
			// What the error is then depends on when: EFAULT, EBADFD, or one of the poller.
			p.err = ErrDeviceGone
		default:
			p.err = fmt.Errorf("read from device %s: %w", fabric.SlowDevice, err)
		}
		p.options.Log.ErrorContext(ctx, "slow path ended", slog.String("network", p.options.Network), slog.Any("error", p.err))
		return
	}
}

// drain takes in what the device has, so that it does not stand before what is written back.
func (p *Path) drain() {
	conn, err := p.device.file.SyscallConn()
	if err != nil {
		return
	}
	raw := make([]byte, p.options.MTU+ethLen)
	//nolint:errcheck // a device that is closed has nothing
	conn.Control(func(fd uintptr) {
		for range queueLen {
			n, err := unix.Read(int(fd), raw)
			if err != nil {
				return
			}
			p.take(raw[:n])
		}
	})
}

// take takes in one frame, and changes it.
func (p *Path) take(raw []byte) {
	count := &p.queues.count
	switch h, ok := parse(raw); {
	case !ok:
		count.drop(Malformed, 1)
	case !p.options.contains(h.target):
		count.drop(Foreign, 1)
	case p.options.toAll(h.target):
		count.drop(Broadcast, 1)
	default:
		turn(raw)
		p.queues.arrive(h, raw)
	}
}

// Gate holds all packets of a destination that come here from now on, and does not ask for a way,
// until [Path.Release]. Once it has returned, no packet that waited here is delivered any more,
// and a way that was being opened is open, or never will be: so whoever wants to hold all of a
// destination's packets gates it first, and then takes away the way that others use.
//
// To gate a gated destination does nothing. If ctx ends before, or the slow path is closed, the
// destination is not gated, and Gate returns an error.
func (p *Path) Gate(ctx context.Context, destination netip.Addr) error {
	if !p.options.contains(destination) {
		return fmt.Errorf("gate %s: %w: it is in none of the prefixes of network %s", destination, ErrOptions, p.options.Network)
	}
	if err := p.queues.gate(ctx, destination); err != nil {
		return fmt.Errorf("gate %s: %w", destination, err)
	}
	return nil
}

// Release ends what [Path.Gate] began: a way is looked for, and what waits takes it.
func (p *Path) Release(destination netip.Addr) { p.queues.release(destination) }

// Forget drops what is known of a destination, that nobody has it or that it has a way: the next
// packet makes a new look-up. If a look-up waits to be tried again it is tried at once. Whoever
// closes a way, and whoever learns of a new endpoint, calls it.
func (p *Path) Forget(destination netip.Addr) { p.queues.forget(destination) }

// Snapshot returns what waits, and what has been counted.
func (p *Path) Snapshot() Snapshot {
	s := p.queues.snapshot()
	if p.use() {
		defer p.users.Done()
		s.Overflow = p.device.dropped()
	}
	return s
}

// Device returns a second descriptor of the device's queue, for a process that keeps it while
// this one is not there: packets wait in it for [Options].Device then. The caller closes it. As
// long as somebody has it, the fabric's namespace lives on.
func (p *Path) Device() (*os.File, error) {
	if !p.use() {
		return nil, fmt.Errorf("get device of slow path: %w", fs.ErrClosed)
	}
	defer p.users.Done()
	raw, err := p.device.file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("get device of slow path: %w", err)
	}
	fd, derr := -1, error(nil)
	err = raw.Control(func(own uintptr) { fd, derr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, derr); err != nil {
		return nil, fmt.Errorf("get device of slow path: %w", err)
	}
	return os.NewFile(uintptr(fd), "slow path"), nil
}

// use keeps the device open until users.Done, or returns false if it is closed.
func (p *Path) use() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.users.Add(1)
	}
	return !p.closed
}

// Done is closed when no packet is read any more: after Close, Leave or an error, which is
// [Path.Err] then. The caller closes the Path in any case, and may open a new one.
func (p *Path) Done() <-chan struct{} { return p.done }

// Err says why Done was closed: an error wrapping [ErrDeviceGone] if somebody deleted the device,
// nil after Close and Leave. It is nil before.
func (p *Path) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Close removes the slow path: what waits is dropped, and packets without a way are answered with
// "host unreachable" by the fabric again. A second Close or Leave does nothing.
func (p *Path) Close() error { return p.end(dropping, removing) }

// Leave lets go of the slow path, for a process that ends and will have a successor. What waits
// goes back to the device's queue, as far as there is room, and waits there with all that comes
// meanwhile, if another process keeps what [Path.Device] returned. If none does, all is dropped
// until the next Open.
func (p *Path) Leave() error { return p.end(leaving, keeping) }

// fate is what becomes of the device.
type fate int

const (
	removing fate = iota
	keeping
)

func (p *Path) end(how ending, then fate) error {
	p.mu.Lock()
	again := p.closed
	p.closed = true
	p.mu.Unlock()
	if again {
		return nil
	}
	p.users.Wait()
	// Nothing is read any more, but there can be writing.
	if err := p.device.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return fmt.Errorf("stop reading: %w", err)
	}
	<-p.done
	if how == leaving {
		p.drain()
	}
	if err := p.stop(how, then); err != nil {
		return fmt.Errorf("close slow path of network %s: %w", p.options.Network, err)
	}
	return nil
}

// stop ends everything but the reader, which is not there.
func (p *Path) stop(how ending, then fate) error {
	p.queues.close(how)
	p.cancel()
	p.wait()
	var err error
	if then == removing {
		err = p.device.remove()
	}
	return errors.Join(err, p.device.close(), p.herald.close())
}
