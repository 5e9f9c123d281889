package courier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
)

// GuestKind is the kind of the streams that [Courier.Lodge] answers.
const GuestKind = "guest"

// lodging is what a host says of a snapshot that another one is to have for one request: what is made of
// it decides whether it stays. The stream is open as long as the request goes on.
type lodging struct {
	Name     string `json:"name"`     // on the host that is asked
	Identity string `json:"identity"` // see [snapshot.Manifest.Identity]
}

// answer is what the host says that is asked: one of the fields is set, or none: then it lacks the snapshot, and
// waits for it.
type answer struct {
	There bool `json:"there,omitempty"` // it has the snapshot, which is no guest then
	Taken bool `json:"taken,omitempty"` // it has another one of that name
	Busy  bool `json:"busy,omitempty"`  // somebody else is bringing one of that name
}

// keepIt is what a host says if the guest is to stay. The other one repeats it.
const keepIt = "keep"

// guests are the snapshots of this host that came, or are to come, for a request of another host that goes on.
// On the disk there is a file for each, so that what a daemon leaves that is killed meanwhile is found.
type guests struct {
	dir string

	mu    sync.Mutex
	names map[string]bool // false: it is leaving
}

func (g *guests) file(name string) string { return filepath.Join(g.dir, name+".json") }

// begin tells whether there was no guest of that name.
func (g *guests) begin(l lodging) (bool, error) {
	g.mu.Lock()
	_, taken := g.names[l.Name]
	if !taken {
		g.names[l.Name] = true
	}
	g.mu.Unlock()
	if taken {
		return false, nil
	}
	if err := journal.Write(g.file(l.Name), l, journal.Forever); err != nil {
		g.end(l.Name)
		return false, err
	}
	return true, nil
}

func (g *guests) has(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.names[name]
}

// leave has none of this name come any more.
func (g *guests) leave(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.names[name] = false
}

// end ends that a snapshot is a guest: it stays, or is gone.
func (g *guests) end(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.names, name)
}

// Lodge answers a stream by which another host has this one have a snapshot for a request, see [Courier.Bring]. If the
// snapshot is not there it comes by another stream. It stays if the other host says so before this stream ends, and
// is removed otherwise.
func (c *Courier) Lodge(ctx context.Context, _ message.Caller, s *control.Stream) error {
	var l lodging
	if err := json.Unmarshal(s.Parameters, &l); err != nil {
		return &message.InvalidError{What: "request to have a snapshot", Why: err.Error()}
	}
	if err := snapshot.ValidateName(l.Name); err != nil {
		return err
	}
	a, err := c.look(l)
	if err != nil {
		return err
	}
	if a == (answer{}) {
		begun, err := c.guests.begin(l)
		if err != nil {
			return err
		}
		a.Busy = !begun
	}
	err = say(s, a)
	if a != (answer{}) {
		return err
	}
	var b []byte
	if err == nil {
		b, err = s.Recv()
	}
	keep := err == nil && string(b) == keepIt
	if err := c.depart(context.WithoutCancel(ctx), l, keep); err != nil || !keep {
		return err
	}
	return s.Send([]byte(keepIt))
}

// look tells whether a snapshot is there, or another one of its name.
func (c *Courier) look(l lodging) (answer, error) {
	_, m, err := c.opt.Snapshots.Find(l.Name)
	switch {
	case errdefs.IsNotFound(err):
		return answer{}, nil
	case err != nil:
		return answer{}, err
	}
	same := m.Identity() == l.Identity
	return answer{There: same, Taken: !same}, nil
}

// depart ends that a snapshot is a guest. If it does not stay it is removed, if it is there.
func (c *Courier) depart(ctx context.Context, l lodging, stays bool) error {
	defer c.guests.end(l.Name)
	if !stays {
		c.guests.leave(l.Name)
		if err := c.expel(l); err != nil && !errdefs.IsNotFound(err) { // else it is being received: see there
			c.opt.Log.WarnContext(ctx, "a snapshot stays that came for a request of another host", slog.String("snapshot", l.Name), slog.Any("error", err))
		}
	}
	if err := os.Remove(c.guests.file(l.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("end that snapshot %s is a guest: %w", l.Name, err)
	}
	return nil
}

// expel removes a guest that does not stay. Who needs it by now keeps it.
func (c *Courier) expel(l lodging) error {
	a, err := c.look(l)
	if err != nil || !a.There {
		return err
	}
	return c.opt.Snapshots.Remove(l.Name)
}

// Sweep removes what an earlier daemon left that was there for a request. It is called before there are new ones.
func (c *Courier) Sweep(ctx context.Context) error {
	if err := os.MkdirAll(c.guests.dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	entries, err := os.ReadDir(c.guests.dir)
	if err != nil {
		return fmt.Errorf("list guests: %w", err)
	}
	for _, e := range entries {
		var l lodging
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if ok && journal.Read(c.guests.file(name), &l) == nil && l.Name == name {
			err = c.depart(ctx, l, false)
		} else { // a daemon was killed that wrote it: nothing had come
			err = os.Remove(filepath.Join(c.guests.dir, e.Name()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func say(s *control.Stream, a answer) error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return s.Send(b)
}
