package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover/backlog"
	"github.com/snapctl/snapctl/vem/handover/plain"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// ErrUnaccepted is that connections wait to be accepted by the app, on a kernel that can't
// have them wait elsewhere, see [backlog.Supported]. They stay where they are: wake the app,
// which accepts them, or give them up. A later Save may succeed.
var ErrUnaccepted = errors.New("connections wait to be accepted")

// Check tells which sockets and objects of a set that is held can't be made again on another
// host, and why. It changes nothing. own are the addresses of the app's network namespace but
// for those of the loopback device.
//
// Cost: 30 us for each socket, on each processor.
func Check(ctx context.Context, ns *netns.NS, set *hold.Set, own ...netip.Addr) ([]Refused, error) {
	f, err := find(ctx, ns, set, own)
	if err != nil {
		return nil, fmt.Errorf("look at held sockets: %w", err)
	}
	waits, err := f.unaccepted()
	return append(f.refused, waits...), err
}

// unaccepted lists the listeners at which connections wait, if they can't move.
func (f *found) unaccepted() ([]Refused, error) {
	why := backlog.Supported()
	if why == nil {
		return nil, nil
	}
	var list []Refused
	for _, o := range f.others {
		if !o.state.Listening {
			continue
		}
		n, err := waiting(o.socket)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", what(o.socket), err)
		}
		if n > 0 {
			list = append(list, Refused{Inode: o.socket.ImageInode(), What: what(o.socket), Reason: fmt.Sprintf("%d connections wait to be accepted: %v", n, why), Unaccepted: true})
		}
	}
	return list, nil
}

// Leaving is the sockets of an app that are about to leave this host.
type Leaving struct {
	ns   *netns.NS
	set  *hold.Set
	own  []netip.Addr
	f    *found
	undo undo
	read bool // what could be read once only was read

	bar     *backlog.Bar
	waiting []Waiting // taken out of the listeners' queues
}

// undo is what [GoOn] needs, by the kernel's numbers of sockets.
type undo struct {
	Reuse   map[uint64]int         `json:"reuse"`   // SO_REUSEADDR of connections
	Options map[uint64][]plain.Own `json:"options"` // of others
}

// Begin reads all of the sockets that does not change while no process uses them, which is
// most of the work. It changes nothing, and packets may come and go. own is as in Check. What
// is refused is in Saved.Refused later, and moves no more than that.
func Begin(ctx context.Context, ns *netns.NS, set *hold.Set, own ...netip.Addr) (*Leaving, error) {
	f, err := find(ctx, ns, set, own)
	if err != nil {
		return nil, fmt.Errorf("look at held sockets: %w", err)
	}
	l := &Leaving{ns: ns, set: set, own: own, f: f, undo: undo{Reuse: make(map[uint64]int), Options: make(map[uint64][]plain.Own)}}
	for _, c := range f.connections {
		for i, reuse := range c.looked.Reuse() {
			l.undo.Reuse[c.sockets[i].Inode] = reuse
		}
	}
	for _, o := range f.others {
		if len(o.own) > 0 {
			l.undo.Options[o.socket.Inode] = o.own
		}
		if o.state.Connecting { // it may be connected when it is saved
			l.undo.Reuse[o.socket.Inode] = o.state.Settings.ReuseAddress
		}
	}
	return l, nil
}

// Refused lists what does not move, as far as it is known before Save.
func (l *Leaving) Refused() []Refused { return l.f.refused }

// Undo is what [GoOn] needs. The caller writes it down before Save, if a later daemon is to
// be able to go on.
func (l *Leaving) Undo() ([]byte, error) { return json.Marshal(l.undo) }

// Save saves all sockets. The gate is closed: no packet gets into the namespace or out of it.
// Connections are in repair mode afterwards, and what waited to be accepted is in Saved
// alone. If it fails, all is as before. If connections wait to be accepted that can't move,
// it fails with an error wrapping [ErrUnaccepted].
//
// Cost: 15 us for each connection with empty queues, on each processor.
func (l *Leaving) Save(ctx context.Context) (_ *Saved, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("save held sockets: %w", err), l.GoOn())
		}
	}()
	waits, err := l.f.unaccepted()
	if err != nil {
		return nil, err
	}
	if len(waits) > 0 {
		return nil, fmt.Errorf("%w: %s: %s", ErrUnaccepted, waits[0].What, waits[0].Reason)
	}
	t, err := newTable(l.ns)
	if err != nil {
		return nil, err
	}
	if err := l.f.connected(t, l.set, l.own); err != nil {
		return nil, err
	}
	saved := &Saved{Refused: l.f.refused, Window: l.f.window}
	var mu sync.Mutex
	size := 0
	err = each(ctx, here, l.f.connections, func(c *connection) error {
		made, err := c.save(t)
		mu.Lock()
		defer mu.Unlock()
		var refused *tcprepair.UnsupportedError
		if errors.As(err, &refused) || errors.Is(err, tcprepair.ErrInconsistent) {
			for _, s := range c.sockets {
				saved.refuse(s, err.Error())
			}
			return nil
		}
		if err != nil {
			return err
		}
		if size += made.Size(); size > tcprepair.MaxSaved {
			return fmt.Errorf("more than %d MiB wait in the app's connections: wake the app, which has to read them", tcprepair.MaxSaved>>20)
		}
		saved.addConnection(c, made)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := l.saveOthers(saved); err != nil {
		return nil, err
	}
	if err := l.saveWaiting(ctx, saved); err != nil {
		return nil, err
	}
	return saved, l.bar.Close()
}

// save saves one connection.
func (c *connection) save(t *table) (tcprepair.Connection, error) {
	queued := make([]uint32, len(c.sockets))
	for i, s := range c.sockets {
		queued[i] = t.byInode[uint32(s.Inode)].RecvQ
	}
	return c.looked.Save(tcprepair.SaveOptions{Stay: true, Elsewhere: !c.inside}, queued...)
}

func (l *Leaving) saveOthers(saved *Saved) error {
	l.read = true
	for _, o := range l.f.others {
		o.state.Queue = nil
		if o.state.Connecting {
			if err := o.state.ReadSequence(int(o.socket.File.Fd())); err != nil {
				return fmt.Errorf("%s: %w", what(o.socket), err)
			}
		}
		if o.state.Queues() {
			err := o.state.ReadQueue(int(o.socket.File.Fd()), o.own)
			if refused, ok := errors.AsType[*plain.UnsupportedError](err); ok {
				saved.refuse(o.socket, refused.What)
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", what(o.socket), err)
			}
		}
		saved.addOther(o)
	}
	return nil
}

// GoOn has the sockets go on at the source, after Save, whatever that has done. The gate is
// closed still. Going on again does nothing.
func (l *Leaving) GoOn() error {
	// First of all, for the other ends may be in the app, and talk when they go on.
	err := errors.Join(l.bar.Close(), Return(l.ns, l.set, &Saved{Waiting: l.waiting}))
	l.waiting = nil
	err = errors.Join(err, l.undo.goOn(l.set))
	if !l.read {
		return err
	}
	l.read = false
	return errors.Join(err, l.ns.Do(func() error {
		live := make([]plain.Live, len(l.f.others))
		for i, o := range l.f.others {
			live[i] = plain.Live{Socket: o.state, FD: int(o.socket.File.Fd())}
		}
		return plain.Return(live)
	}))
}

// GoOn has sockets go on that an earlier daemon has left when it was killed after Begin:
// undo is what [Leaving.Undo] gave to it, and set the same set, as the holder has it. What
// waited in ping and raw sockets may be lost, and so is what waited to be accepted, unless
// [Return] was called. Going on again does nothing.
func GoOn(set *hold.Set, b []byte) error {
	var u undo
	if err := json.Unmarshal(b, &u); err != nil {
		return fmt.Errorf("read what is to be undone of a handover: %w", err)
	}
	return u.goOn(set)
}

func (u *undo) goOn(set *hold.Set) error {
	var errs []error
	for i := range set.Sockets {
		s := &set.Sockets[i]
		fd := int(s.File.Fd())
		if reuse, ok := u.Reuse[s.Inode]; ok {
			if err := (tcprepair.End{FD: fd}).Recover(reuse); err != nil {
				errs = append(errs, fmt.Errorf("have %s go on: %w", what(s), err))
			}
		}
		if err := plain.PutBack(fd, u.Options[s.Inode]); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
			errs = append(errs, fmt.Errorf("have %s go on: %w", what(s), err))
		}
	}
	return errors.Join(errs...)
}
