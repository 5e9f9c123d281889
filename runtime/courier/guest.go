package courier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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

// lodging is what a host says of a snapshot or template that another one is to have for one request: what is made
// of it decides whether it stays. The stream is open as long as the request goes on.
type lodging struct {
	Template bool   `json:"template,omitempty"`
	Name     string `json:"name"`     // on the host that is asked
	Identity string `json:"identity"` // see identity
}

// key names what it is, among all guests.
func (l lodging) key() string {
	if l.Template {
		return "template-" + l.Name
	}
	return "snapshot-" + l.Name
}

func (l lodging) String() string { return strings.Replace(l.key(), "-", " ", 1) }

// answer is what the host says that is asked: one of the fields is set, or none: then it lacks what it is to have,
// and waits for it.
type answer struct {
	There bool `json:"there,omitempty"` // it has it, and it is no guest then
	Taken bool `json:"taken,omitempty"` // it has another one of that name
	Busy  bool `json:"busy,omitempty"`  // somebody else is bringing one of that name
}

// keepIt is what a host says if the guest is to stay, and the other one repeats it; goAway if it is not to.
const (
	keepIt = "keep"
	goAway = "go"
)

// guests are the snapshots and templates of this host that came, or are to come, for a request of another host that goes on.
// On the disk there is a file for each, so that what a daemon leaves that is killed meanwhile is found.
type guests struct {
	dir string

	mu    sync.Mutex
	names map[string]bool // false: it is leaving
}

func (g *guests) file(l lodging) string { return filepath.Join(g.dir, l.key()+".json") }

// begin tells whether there was no such guest.
func (g *guests) begin(l lodging) (bool, error) {
	g.mu.Lock()
	_, taken := g.names[l.key()]
	if !taken {
		g.names[l.key()] = true
	}
	g.mu.Unlock()
	if taken {
		return false, nil
	}
	if err := journal.Write(g.file(l), l, journal.Forever); err != nil {
		g.end(l)
		return false, err
	}
	return true, nil
}

func (g *guests) has(l lodging) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.names[l.key()]
}

// leave has it come no more.
func (g *guests) leave(l lodging) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.names[l.key()] = false
}

// end ends that something is a guest: it stays, or is gone.
func (g *guests) end(l lodging) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.names, l.key())
}

// Lodge answers a stream by which another host has this one have a snapshot or a template for a request, see
// [Courier.Bring]. If that is not there it comes by another stream. It stays if the other host says so before this
// stream ends, and is removed otherwise.
func (c *Courier) Lodge(ctx context.Context, _ message.Caller, s *control.Stream) error {
	var l lodging
	if err := json.Unmarshal(s.Parameters, &l); err != nil {
		return &message.InvalidError{What: "request to have a guest", Why: err.Error()}
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

// look tells whether it is there, or something else of its name.
func (c *Courier) look(l lodging) (answer, error) {
	id, err := c.identity(l)
	switch {
	case errdefs.IsNotFound(err):
		return answer{}, nil
	case err != nil:
		return answer{}, err
	}
	return answer{There: id == l.Identity, Taken: id != l.Identity}, nil
}

// identity is the same of what is the same on two hosts. Returns an errdefs.ErrNotFound if it is not there.
func (c *Courier) identity(l lodging) (string, error) {
	name, rules := l.Name, ""
	if l.Template {
		t, err := c.opt.Templates().Get(l.Name)
		if err != nil {
			return "", err
		}
		name, rules = t.Snapshot, t.RulesText
	}
	_, m, err := c.opt.Snapshots.Find(name)
	if err != nil {
		return "", err
	}
	if !l.Template {
		return m.Identity(), nil
	}
	sum := sha256.Sum256([]byte(m.Identity() + "\n" + rules))
	return hex.EncodeToString(sum[:]), nil
}

// remove removes it. Who needs it by now keeps it, with an error.
func (c *Courier) remove(ctx context.Context, l lodging) error {
	if l.Template {
		return c.opt.RemoveTemplate(ctx, l.Name)
	}
	return c.opt.Snapshots.Remove(l.Name)
}

// depart ends that something is a guest. If it does not stay it is removed, if it is there.
func (c *Courier) depart(ctx context.Context, l lodging, stays bool) error {
	defer c.guests.end(l)
	if !stays {
		c.guests.leave(l)
		if err := c.expel(ctx, l); err != nil && !errdefs.IsNotFound(err) { // else it is being received: see there
			c.opt.Log.WarnContext(ctx, "what came for a request of another host stays", slog.String("guest", l.String()), slog.Any("error", err))
		}
	}
	if err := os.Remove(c.guests.file(l)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("end that %v is a guest: %w", l, err)
	}
	return nil
}

// expel removes a guest that does not stay.
func (c *Courier) expel(ctx context.Context, l lodging) error {
	a, err := c.look(l)
	if err != nil || !a.There {
		return err
	}
	return c.remove(ctx, l)
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
		if journal.Read(filepath.Join(c.guests.dir, e.Name()), &l) == nil && l.key()+".json" == e.Name() {
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
