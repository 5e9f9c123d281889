package member

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// Options says which member is run.
type Options struct {
	Exe    string // the program snapctl-directory
	Config Config
	// TLS has the certificate with which this host asks the member, and the others, how they are.
	// Nil if the member's clients use none.
	TLS *tls.Config
	Log *slog.Logger // required
}

// Member is this host's member of the directory's cluster. Its methods may be called at the same
// time; those that change something wait for each other.
type Member struct {
	conf    Config
	log     *slog.Logger
	cluster *Cluster         // as this member knows it
	client  *clientv3.Client // of this member alone

	turn chan struct{} // has room for the one who starts, stops or changes the member

	mu     sync.Mutex
	exe    string
	state  state
	change chan struct{}      // closed at the next change of state
	stop   context.CancelFunc // ends keep; nil if that does not run
	kept   chan struct{}      // closed when keep has returned
	again  chan struct{}      // has an element if keep is not to pause
}

// state is that of the process: stopped (neither), starting or serving (proc), or ended (err).
type state struct {
	proc   *process
	serves bool
	err    error
}

const (
	askTime    = 5 * time.Second // for a question to etcd
	defragTime = 2 * time.Minute
	endTime    = 15 * time.Second // for a process to end by itself
	stable     = time.Minute      // after this long a process has not failed at its start
	pauseMin   = 500 * time.Millisecond
	pauseMax   = time.Minute
	lookLog    = 10 * time.Minute // between looks at the size of the log
)

// EndTimeout is how long [End] takes at most, unless the kernel can't end a process.
const EndTimeout = 2 * endTime

// Open returns the member, as it is: a process that runs goes on, one that does not is not
// started. The caller closes it.
func Open(opt Options) (*Member, error) {
	conf, err := opt.Config.Complete()
	if err != nil {
		return nil, err
	}
	c, err := OpenCluster([]string{conf.endpoint()}, opt.TLS)
	if err != nil {
		return nil, err
	}
	return &Member{
		conf: conf, log: opt.Log, cluster: c, client: c.client, exe: opt.Exe,
		turn: make(chan struct{}, 1), change: make(chan struct{}), again: make(chan struct{}, 1),
	}, nil
}

// Close lets go of the member, whose process goes on.
func (m *Member) Close() error {
	m.letGo()
	return m.cluster.Close()
}

// Cluster is the members of the directory as this one reaches them. It is closed with the member.
func (m *Member) Cluster() *Cluster { return m.cluster }

// Start keeps the member running from now on, and returns when it serves. It goes on with a
// process that runs already.
//
// If the process ends Start returns an [*EndError], and if ctx ends one of ctx; in both cases the
// member is still kept, and tried again, until Stop or Close. Calling Start again tries at once. A
// member of several waits for so many others that they are more than half.
func (m *Member) Start(ctx context.Context) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.give()
	return m.start(ctx)
}

func (m *Member) start(ctx context.Context) error {
	change := m.keepOn(ctx)
	for began := time.Now(); ; {
		select {
		case <-change:
		case <-ctx.Done():
			return fmt.Errorf("start member of the directory, which does not serve yet: %w", ctx.Err())
		}
		var s state
		s, change = m.now()
		if s.serves {
			return nil
		}
		// A process that was told to end a moment ago may still have the folder.
		if end, ok := errors.AsType[*EndError](s.err); ok && end.Reason == ReasonRunning && time.Since(began) < endTime {
			continue
		}
		if s.err != nil {
			return fmt.Errorf("start member of the directory: %w", s.err)
		}
	}
}

// keepOn sees that keep runs and does not pause. The channel is closed at a change after that.
func (m *Member) keepOn(ctx context.Context) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop == nil {
		inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
		m.stop, m.kept = cancel, make(chan struct{})
		go m.keep(inner, m.kept)
	}
	if m.state.serves {
		done := make(chan struct{})
		close(done)
		return done
	}
	select {
	case m.again <- struct{}{}:
	default:
	}
	return m.change
}

// Stop ends the member's process, and does not start it again. It does so as well if an earlier
// daemon has started the process.
func (m *Member) Stop(ctx context.Context) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.give()
	return m.end(ctx)
}

func (m *Member) end(ctx context.Context) error {
	m.letGo()
	return End(ctx, m.conf)
}

// End ends the process of a member, whoever started it, if there is one. Nobody may keep it running.
func End(ctx context.Context, c Config) error {
	p, err := find(c)
	if err != nil {
		return fmt.Errorf("stop member of the directory: %w", err)
	}
	if p == nil {
		return nil
	}
	defer p.close()
	if err := p.signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop member of the directory: %w", err)
	}
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop member of the directory, which has not ended yet: %w", ctx.Err())
	case <-timer.C:
	}
	// It is a crash to etcd, which it is made for.
	if err := p.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("stop member of the directory: %w", err)
	}
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop member of the directory, which was killed: %w", ctx.Err())
	}
}

// letGo ends keep, and leaves the process alone.
func (m *Member) letGo() {
	m.mu.Lock()
	stop, kept := m.stop, m.kept
	m.stop = nil
	m.mu.Unlock()
	if stop == nil {
		return
	}
	stop()
	<-kept
	m.set(state{})
}

// take waits for the turn of the caller, who gives it back.
func (m *Member) take(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another operation on the member of the directory is under way: %w", ctx.Err())
	}
}

func (m *Member) give() { <-m.turn }

func (m *Member) now() (state, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, m.change
}

func (m *Member) set(s state) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
	close(m.change)
	m.change = make(chan struct{})
}

func (m *Member) program() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exe
}

// keep starts the process, or goes on with the one that runs, whenever there is none, until ctx
// ends.
func (m *Member) keep(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	var wait time.Duration
	for m.pause(ctx, wait) {
		began := time.Now()
		err := m.run(ctx)
		if ctx.Err() != nil {
			return
		}
		m.set(state{err: err})
		if time.Since(began) > stable {
			wait = 0
		}
		wait = min(max(2*wait, pauseMin), pauseMax)
		var end *EndError
		if errors.As(err, &end) && end.Reason == ReasonRemoved {
			wait = 24 * time.Hour
		}
		m.log.ErrorContext(ctx, "the member of the directory does not run", slog.Any("error", err), slog.Duration("again_in", wait))
	}
}

// pause waits, unless it is told to try again.
func (m *Member) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.again:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// run returns when the process has ended, with the reason, or ctx has, and the process goes on.
func (m *Member) run(ctx context.Context) error {
	var from int64 // where the log of the process begins, if it is known
	p, err := find(m.conf)
	if err == nil && p == nil {
		p, from, err = spawn(ctx, m.program(), m.conf)
	}
	if errors.Is(err, unix.ENOSPC) {
		return &EndError{Reason: ReasonDiskFull, Said: err.Error(), Log: m.conf.logPath()}
	}
	if err != nil {
		return err
	}
	defer p.close()
	m.set(state{proc: p})
	if p.serves(ctx, m.conf) {
		m.set(state{proc: p, serves: true})
		m.log.InfoContext(ctx, "the member of the directory serves", slog.Int("pid", p.pid))
	}
	tick := time.NewTicker(lookLog)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.ended:
			return why(m.conf.logPath(), from)
		case <-tick.C:
			from = 0
			if err := trimLog(m.conf.logPath()); err != nil {
				m.log.WarnContext(ctx, "look after the log of the directory's member", slog.Any("error", err))
			}
		}
	}
}
