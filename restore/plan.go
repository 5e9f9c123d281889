package restore

import (
	"fmt"
	"os"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/owner"
)

// Plan is what a restore does with each external resource and socket.
type Plan struct {
	// Keys names each held socket, by its inode in the images.
	Keys map[uint64]string
	// Files names each other held file, by a place where it is open.
	Files map[image.DescriptorRef]string

	// Terminals has the number of the terminal that a descriptor of /dev/tty leads to.
	Terminals map[image.DescriptorRef]int

	external []snapshot.External
	held     map[string]Held // by key
	memory   []snapshot.Memory
	mapped   map[string]*os.File // memory files, by key
	used     []string            // the keys of those that the images name
	lent     map[string]*os.File // mapped files of binds, by key
	streams  streams
	host     hostFiles

	rehearsal bool // see Rehearse
	terminals terminals

	owners []openfile.Owner
	told   owner.Told
}

// NewPlan makes a plan. It touches nothing.
func NewPlan(m *snapshot.Manifest, held []Held) (*Plan, error) {
	p := &Plan{
		external: m.External, memory: m.Memory, Keys: make(map[uint64]string, len(held)), Files: make(map[image.DescriptorRef]string),
		held: make(map[string]Held, len(held)), Terminals: make(map[image.DescriptorRef]int),
	}
	for _, h := range held {
		if h.Inode == 0 {
			if _, ok := p.Files[h.At]; ok {
				return nil, fmt.Errorf("plan restore: descriptor %d of process %d is held twice", h.At.FD, h.At.PID)
			}
			key := fmt.Sprintf("%x-%x-held-file", h.At.FD, h.At.PID)
			p.Files[h.At] = key
			p.held[key] = h
			continue
		}
		if _, ok := p.Keys[h.Inode]; ok {
			return nil, fmt.Errorf("plan restore: socket %d is held twice", h.Inode)
		}
		// CRIU compares a key with each of its list in turn: what differs
		// comes first, so that most comparisons end at once.
		key := fmt.Sprintf("%x-held-socket", h.Inode)
		p.Keys[h.Inode] = key
		p.held[key] = h
	}
	for _, e := range m.External {
		if number, ok := e.Terminal(); ok {
			p.Terminals[image.DescriptorRef{PID: e.PID, FD: e.FD}] = number
		}
	}
	return p, nil
}

// keep drops what is held and no process of the images had: it was closed
// between the hold and the dump, or only in flight.
func (p *Plan) keep(replaced map[uint64]openfile.Replaced, files map[string]openfile.Replaced) {
	for _, key := range p.Files {
		if _, ok := files[key]; !ok {
			delete(p.held, key)
		}
	}
	for inode, key := range p.Keys {
		if _, ok := replaced[inode]; !ok {
			delete(p.held, key)
		}
	}
}

// files lists all that CRIU may inherit.
func (p *Plan) files() []*os.File {
	list := make([]*os.File, 0, len(p.streams)+len(p.held)+len(p.mapped)+len(p.host.open))
	for _, f := range p.streams {
		list = append(list, f)
	}
	for _, h := range p.held {
		list = append(list, h.File)
	}
	for _, f := range p.mapped {
		list = append(list, f)
	}
	for _, f := range p.lent {
		list = append(list, f)
	}
	for _, f := range p.host.open {
		list = append(list, f)
	}
	for _, in := range p.terminals.masters() {
		list = append(list, in.File)
	}
	return list
}

// options maps the external resources onto a place.
func (p *Plan) options(at Place) (criu.RestoreOptions, error) {
	var o criu.RestoreOptions
	missing := func(e snapshot.External) error {
		return fmt.Errorf("%w: %s %s%s", ErrIncomplete, e.Kind, e.Key, e.Path)
	}
	for _, e := range p.external {
		switch e.Kind {
		case snapshot.ExternalNet:
			if at.Net == nil {
				return o, missing(e)
			}
			// CRIU is started in it: see Place.
		case snapshot.ExternalIPC:
			if !at.IPC {
				return o, missing(e)
			}
		case snapshot.ExternalLog, snapshot.ExternalFIFO, snapshot.ExternalConsole:
			if at.stream(e) == nil {
				return o, missing(e)
			}
			// See openStreams.
		case snapshot.ExternalDev:
			if at.Dev == "" {
				return o, missing(e)
			}
			o.External = append(o.External, mount(e, at.Dev))
		case snapshot.ExternalBind, snapshot.ExternalMount:
			source, ok := at.Binds[e.Path]
			if !ok {
				return o, missing(e)
			}
			o.External = append(o.External, mount(e, source))
		case snapshot.ExternalFile, snapshot.ExternalWatch, snapshot.ExternalMoved:
			// Open files are among the held ones, see openLent for mapped ones. Of the
			// others the images tell CRIU, see setWatches and moved.
		case snapshot.ExternalUnix, snapshot.ExternalEventfd, snapshot.ExternalQueue, snapshot.ExternalTerminal, snapshot.ExternalPair:
			// Among the held ones: live, or a stand-in whose other end is closed. Of
			// terminals the images have the rest.
		}
	}
	for key, f := range p.streams {
		o.Inherit = append(o.Inherit, criu.Inherit{Key: key, File: f})
	}
	for key, h := range p.held {
		o.Inherit = append(o.Inherit, criu.Inherit{Key: key, File: h.File})
	}
	for key, f := range p.lent {
		o.Inherit = append(o.Inherit, criu.Inherit{Key: key, File: f})
	}
	for _, key := range p.used {
		o.Inherit = append(o.Inherit, criu.Inherit{Key: key, File: p.mapped[key]})
	}
	for key, f := range p.host.open {
		o.Inherit = append(o.Inherit, criu.Inherit{Key: key, File: f})
	}
	o.Inherit = append(o.Inherit, p.terminals.masters()...)
	return o, nil
}

func mount(e snapshot.External, source string) string {
	return fmt.Sprintf("mnt[%s]:%s", e.Key, source)
}
