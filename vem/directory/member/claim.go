package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/pause"
)

// The bytes of the lock file. Record locks (fcntl(2)) tell who has them, and the kernel takes them
// back when the process ends, however it ends. So there is no file with a number in it that could
// be wrong, and no moment when a process runs and nobody can find it.
const (
	lockRuns   = 0
	lockServes = 1
)

// ErrRunning is that a process serves, or changes, a member's folder.
var ErrRunning = errors.New("a process of this member is running already")

// ErrNoData is that a member which has served before has no data any more.
var ErrNoData = errors.New("the data of this member of the directory is gone")

// Claim is a process's right to a member's folder. The program snapctl-directory takes it first.
type Claim struct {
	config Config
	file   *os.File
}

// Take claims the member's folder for this process, until it ends or calls Release. An error wraps
// [ErrRunning] if another process has it. The process must not open the lock file otherwise:
// closing it again would drop the lock (fcntl(2)).
func Take(c Config) (*Claim, error) {
	f, err := os.OpenFile(c.lockPath(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim folder of the directory's member: %w", err)
	}
	claim := &Claim{config: c, file: f}
	if err := claim.lock(lockRuns); err != nil {
		return nil, errors.Join(fmt.Errorf("claim folder of the directory's member: %w", err), f.Close())
	}
	return claim, nil
}

func (c *Claim) lock(at int64) error {
	err := unix.FcntlFlock(c.file.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrRunning
	}
	return err
}

// identity is the content of identity.json. The numbers are as etcd prints them.
type identity struct {
	Cluster string `json:"cluster"`
	Member  string `json:"member"`
}

// Check returns an error wrapping [ErrNoData] if the member has served before and its data is
// gone: started as if it were new, it would be an empty directory in the place of the true one.
func (c *Claim) Check() error {
	if _, err := os.Stat(c.config.DataDir()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(c.config.ReadyDir()); err == nil {
		return fmt.Errorf("%w: a restore was broken off: do it again", ErrNoData)
	}
	var id identity
	b, err := os.ReadFile(c.config.identityPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &id)
	}
	if err != nil {
		return fmt.Errorf("read identity of the directory's member: %w", err)
	}
	return fmt.Errorf("%w: it was member %s of cluster %s, and %s does not exist: restore a backup; or remove it from its cluster, remove %s and let it join again",
		ErrNoData, id.Member, id.Cluster, c.config.DataDir(), c.config.identityPath())
}

// Serves tells that the member serves, as member of cluster.
func (c *Claim) Serves(cluster, member string) error {
	if err := writeJSON(c.config.identityPath(), identity{Cluster: cluster, Member: member}); err != nil {
		return fmt.Errorf("write identity of the directory's member: %w", err)
	}
	return c.lock(lockServes)
}

// Forget removes the member's identity, before its data becomes that of another cluster.
func (c *Claim) Forget() error {
	err := os.Remove(c.config.identityPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(c.config.Dir))
}

// Release gives the folder back.
func (c *Claim) Release() error { return c.file.Close() }

// holder returns the process that has a lock of the member's folder, 0 if there is none.
func holder(c Config, at int64) (int, error) {
	f, err := os.Open(c.lockPath())
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only asked
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l); err != nil {
		return 0, err
	}
	if l.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(l.Pid), nil
}

// process is a running process of a member.
type process struct {
	pid   int
	pidfd *os.File
	ended chan struct{} // closed when it has ended, or the process is closed
}

// find returns the process that has the member's folder, nil if there is none.
func find(c Config) (*process, error) {
	pid, err := holder(c, lockRuns)
	if err != nil || pid == 0 {
		return nil, err
	}
	p, err := openProcess(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// That it still has the lock proves that the number is still its own.
	if again, err := holder(c, lockRuns); err != nil || again != pid {
		p.close()
		return nil, err
	}
	return p, nil
}

// openProcess opens a process of which the caller knows that it is the one.
func openProcess(pid int) (*process, error) {
	// Non-blocking, so that Go's poller waits for it (pidfd_open(2), Linux 5.10).
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd"), ended: make(chan struct{})}
	go func() { // ends with the process, at the latest in close
		defer close(p.ended)
		p.wait()
	}()
	return p, nil
}

// wait returns when the process has ended, and reaps it if it is a child of this one, or when the
// pidfd is closed.
func (p *process) wait() {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // fails if the file is closed, and that is all
		if !hasEnded(fd) {
			return false
		}
		_ = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED, nil) // ECHILD: an earlier daemon's
		return true
	})
}

// hasEnded asks a pidfd again if a signal interrupts it: nobody would ask later.
func hasEnded(pidfd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0 && err == nil
		}
	}
}

// close lets go of the process, which goes on.
func (p *process) close() {
	p.pidfd.Close() //nolint:errcheck // nothing was written
	<-p.ended
}

func (p *process) signal(s unix.Signal) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

// serves waits until the process serves. It returns false if it ended before, or ctx has.
func (p *process) serves(ctx context.Context, c Config) bool {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if pid, err := holder(c, lockServes); err == nil && pid == p.pid {
			return true
		}
		if !pause.For(ctx, wait, p.ended) {
			return false
		}
	}
}
