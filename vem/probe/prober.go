package probe

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/pause"
)

// DefaultInterval is how often a way is asked.
const DefaultInterval = time.Second

// Options are what a [Prober] works with.
type Options struct {
	// Port is the UDP port that is listened at.
	Port uint16
	// Interval is how often a way is asked; 0: [DefaultInterval].
	Interval time.Duration
	// NS is the network namespace of the underlay; nil: that of the calling thread.
	NS *netns.NS
	// Changed is told of a host when the state of a way to it, whether it is steady, or its size
	// has changed. It must return at once.
	Changed func(host string)
	Log     *slog.Logger
}

// Local is an address of this host.
type Local struct {
	Addr   netip.Addr
	Device string
	Index  int // of the device
	MTU    int // likewise
}

// Prober asks other hosts, and answers them. Its methods may be called at the same time.
type Prober struct {
	opt  Options
	news chan struct{} // has a token when there is something to do

	setting sync.Mutex // held while the sockets are changed, which takes no time

	mu      sync.Mutex // guards what follows; nothing is sent under it
	book    *book
	sockets map[netip.Addr]*socket
	closed  bool
	wait    sync.WaitGroup // who receive
}

// New returns a prober that has no address and knows no host. The caller has it [Prober.Run], and
// closes it.
func New(opt Options) *Prober {
	if opt.Interval <= 0 {
		opt.Interval = DefaultInterval
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Prober{opt: opt, news: make(chan struct{}, 1), book: newBook(opt.Interval), sockets: make(map[netip.Addr]*socket)}
}

// SetUnderlay says which addresses this host has, now and whenever that changes. An error says
// which of them can't be used; called again it is tried again.
func (p *Prober) SetUnderlay(ctx context.Context, list []Local) error {
	p.setting.Lock()
	defer p.setting.Unlock()
	p.drop(func(s *socket) bool { return !slices.ContainsFunc(list, s.local.same) })
	var errs []error
	limits := make(map[netip.Addr]int)
	for _, l := range list {
		if err := p.open(ctx, l); err != nil {
			errs = append(errs, err)
			continue
		}
		limits[l.Addr] = l.MTU
	}
	p.change(func(b *book, _ time.Time) { b.setLimits(limits) })
	return errors.Join(errs...)
}

// same tells whether a socket of one is good for the other.
func (l Local) same(other Local) bool {
	return l.Addr == other.Addr && l.Device == other.Device && l.Index == other.Index
}

func (p *Prober) open(ctx context.Context, l Local) error {
	p.mu.Lock()
	_, there := p.sockets[l.Addr]
	p.mu.Unlock()
	if there {
		return nil
	}
	var s *socket
	err := p.inside(func() (err error) {
		s, err = listen(ctx, l, p.opt.Port)
		return err
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return s.conn.Close()
	}
	p.sockets[l.Addr] = s
	p.wait.Go(func() { p.receive(context.WithoutCancel(ctx), s) })
	return nil
}

func (p *Prober) inside(fn func() error) error {
	if p.opt.NS == nil {
		return fn()
	}
	return p.opt.NS.Do(fn)
}

// drop closes sockets.
func (p *Prober) drop(which func(*socket) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, s := range p.sockets {
		if which(s) {
			delete(p.sockets, a)
			_ = s.conn.Close() // nothing is kept in it
		}
	}
}

// SetWays says by which ways a host is to be asked; none: not at all. What is known of a way
// stays as long as it is among them.
func (p *Prober) SetWays(host string, pairs []Pair) {
	p.change(func(b *book, now time.Time) { b.setWays(host, pairs, now) })
}

// AskBy gives the key to ask a host by: the newest one.
func (p *Prober) AskBy(host string, k Key) {
	p.change(func(b *book, _ time.Time) { b.askBy(host, k) })
}

// AnswerTo gives a key by which a host asks this one.
func (p *Prober) AnswerTo(host string, k Key) {
	p.change(func(b *book, _ time.Time) { b.answerTo(host, k) })
}

// Forget drops a host: it is neither asked nor answered any more.
func (p *Prober) Forget(host string) {
	p.change(func(b *book, _ time.Time) { b.forget(host) })
}

func (p *Prober) change(fn func(*book, time.Time)) {
	p.mu.Lock()
	fn(p.book, time.Now())
	p.mu.Unlock()
	p.wake()
}

func (p *Prober) wake() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// Ways returns what is known of the ways to a host, in the order in which SetWays had them.
func (p *Prober) Ways(host string) (list []Way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.book.peers[host]; h != nil {
		for _, w := range h.ways {
			list = append(list, w.told())
		}
	}
	return list
}

// Run asks, until ctx ends.
func (p *Prober) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.news:
		case <-timer.C:
		}
		p.mu.Lock()
		list, next := p.book.tick(time.Now())
		p.mu.Unlock()
		for _, d := range list {
			p.send(d)
		}
		p.tell()
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(time.Until(next), 0))
		}
	}
}

// tell tells of hosts of which there is news.
func (p *Prober) tell() {
	p.mu.Lock()
	hosts := p.book.news()
	p.mu.Unlock()
	for _, host := range hosts {
		p.opt.Changed(host)
	}
}

func (p *Prober) send(d datagram) {
	p.mu.Lock()
	s := p.sockets[d.from]
	p.mu.Unlock()
	if s == nil || !s.send(d) {
		return
	}
	p.mu.Lock()
	p.book.refused(d.number)
	p.mu.Unlock()
	p.wake()
}

// receive answers what comes to a socket, until it is closed.
func (p *Prober) receive(ctx context.Context, s *socket) {
	for {
		err := s.receive(func(data []byte, from netip.AddrPort) {
			p.mu.Lock()
			d, ok := p.book.receive(data, s.local.Addr, from, time.Now())
			news := p.book.urgent || len(p.book.changed) > 0
			p.mu.Unlock()
			if ok {
				s.send(d)
			}
			if news {
				p.wake()
			}
		})
		if err == nil {
			return
		}
		p.opt.Log.WarnContext(ctx, "receive probes", slog.String("address", s.local.Addr.String()), slog.Any("error", err))
		pause.For(ctx, time.Second, nil)
	}
}

// Close closes the sockets, and waits for all who use them. It can be repeated.
func (p *Prober) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drop(func(*socket) bool { return true })
	p.wait.Wait()
}
