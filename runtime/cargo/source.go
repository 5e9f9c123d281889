package cargo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// SendOptions say how a snapshot is sent.
type SendOptions struct {
	// Bandwidth is how many bytes a second are sent at most; 0: as many as the stream takes.
	Bandwidth int64
	// Progress is told how far it is, again and again; may be nil. It must return at once.
	Progress func(Progress)
	// Peer is the other host, as errors name it.
	Peer string
	// Features are what the processor of this host can do that programs may use.
	Features []string
}

// Send sends the snapshot in dir by a stream whose other side calls [Receive]. The caller keeps the
// snapshot from being removed, has checked it, and closes the stream. Send may be cancelled at any
// moment: it closes the stream then.
//
// Returns the errors of the target as a *[RemoteError], and an error wrapping [ErrUnknown] if the
// target may have the snapshot nevertheless.
func Send(ctx context.Context, s Stream, dir snapshot.Dir, st Stores, o SendOptions) (_ Report, err error) {
	l, err := newLink(s, o.Bandwidth, o.Peer)
	if err != nil {
		return Report{}, err
	}
	defer l.close()
	defer context.AfterFunc(ctx, s.Close)()
	m, err := dir.Manifest()
	if err != nil {
		return Report{}, l.fail(ctx, err)
	}
	st.pin(m)
	defer st.unpin(m)
	src := &source{link: l, stores: st, dir: dir, m: m, meter: meter{tell: o.Progress}}
	if err := src.offer(ctx, o.Features); err != nil {
		return Report{Progress: src.meter.Progress}, l.fail(ctx, err)
	}
	notes, err := src.everything(ctx)
	return Report{src.meter.last(l.sent), notes}, err
}

// pin keeps what a snapshot shares with others from being swept.
func (st *Stores) pin(m *snapshot.Manifest) {
	st.Memory.Pin(m.MemoryFiles())
	st.Layers.Pin(m.Layers)
	st.HostFiles.Pin(m.HostFiles)
}

func (st *Stores) unpin(m *snapshot.Manifest) {
	st.Memory.Unpin(m.MemoryFiles())
	st.Layers.Unpin(m.Layers)
	st.HostFiles.Unpin(m.HostFiles)
}

// source is one snapshot that is being sent.
type source struct {
	link   *link
	stores Stores
	dir    snapshot.Dir
	m      *snapshot.Manifest
	meter  meter

	memory []memory.File // what is wanted
	files  []*hostfile.File
	layers []wanted
}

// wanted is a layer that the target lacks.
type wanted struct {
	content memory.ID
	ref     layer.Ref
}

// offer offers the snapshot, and agrees with the target about what is sent.
func (s *source) offer(ctx context.Context, features []string) error {
	manifest, err := json.Marshal(s.m)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	o := offer{Version: version, Manifest: manifest, Features: features}
	for _, l := range s.m.Layers {
		content, err := s.stores.Layers.Content(l.ID)
		if err != nil {
			return err
		}
		o.Contents = append(o.Contents, content)
	}
	if err := s.link.put(ctx, kindOffer, o); err != nil {
		return s.link.instead(err)
	}
	if err := fault.Point(ctx, Offered); err != nil {
		return err
	}
	var w want
	if err := read(s.link, kindWant, &w); err != nil {
		return err
	}
	p, err := s.choose(ctx, o, w)
	if err != nil {
		return err
	}
	if err := s.link.put(ctx, kindPlan, p); err != nil {
		return s.link.instead(err)
	}
	return read(s.link, kindGo, &struct{}{})
}

// choose finds what the target wants, and says how much it is.
func (s *source) choose(ctx context.Context, o offer, w want) (plan, error) {
	var p plan
	lacks := setOf(w.Memory)
	seen := make(map[memory.ID]bool)
	for _, f := range s.m.MemoryFiles() {
		if seen[f.ID] {
			continue
		}
		seen[f.ID] = true
		if !take(lacks, f.ID) {
			s.meter.save(f.SizeBytes)
			continue
		}
		s.memory = append(s.memory, f)
		if err := p.count(s.stores.Memory.Path(f.ID), f.SizeBytes, &p.Room.Memory); err != nil {
			return p, err
		}
	}
	lacksFile := setOf(w.Files)
	for i := range s.m.HostFiles {
		f := &s.m.HostFiles[i]
		if f.ID == "" || seen["/"+f.ID] {
			continue
		}
		seen["/"+f.ID] = true
		if !take(lacksFile, f.ID) {
			s.meter.save(f.SizeBytes)
			continue
		}
		s.files = append(s.files, f)
		if err := p.count(s.stores.HostFiles.Path(f), f.SizeBytes, &p.Room.Files); err != nil {
			return p, err
		}
	}
	lacksLayer := setOf(w.Contents)
	for i, l := range s.m.Layers {
		if !take(lacksLayer, o.Contents[i]) {
			s.meter.save(l.SizeBytes)
			continue
		}
		s.layers = append(s.layers, wanted{o.Contents[i], l})
		files, err := s.stores.Layers.Files(l.ID)
		if err != nil {
			return p, err
		}
		if err := p.countTree(ctx, s.stores.Layers.Path(l.ID), files, &p.Room.Layers); err != nil {
			return p, err
		}
	}
	if len(lacks)+len(lacksFile)+len(lacksLayer) > 0 {
		return p, malformed("it wants what it was not offered")
	}
	if err := p.countTree(ctx, string(s.dir), s.m.OwnFiles(), &p.Room.Snapshot); err != nil {
		return p, err
	}
	s.meter.TotalBytes, s.meter.TotalFiles = p.Bytes, p.Files
	return p, nil
}

func setOf(ids []memory.ID) map[memory.ID]bool {
	set := make(map[memory.ID]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// take takes an element of a set.
func take(set map[memory.ID]bool, id memory.ID) bool {
	there := set[id]
	delete(set, id)
	return there
}

// count adds a file of a size to a plan, and what it takes on the disk to room.
func (p *plan) count(path string, size int64, room *int64) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	p.Files++
	p.Bytes += size
	*room += min(size, st.Blocks*512) + pageBytes
	return nil
}

func (p *plan) countTree(ctx context.Context, dir string, files []tree.File, room *int64) error {
	return tree.Entries(dir, files, func(e *tree.Entry) error {
		if !e.HasData() {
			p.Files++
			*room += pageBytes
			return ctx.Err()
		}
		return errors.Join(ctx.Err(), p.count(filepath.Join(dir, string(e.Path)), e.SizeBytes, room))
	})
}

// everything sends what the target lacks, and waits until the target has it. It returns the target's notes.
func (s *source) everything(ctx context.Context) ([]string, error) {
	sending, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var d done
	answer := make(chan error, 1)
	go func() {
		err := read(s.link, kindDone, &d)
		if err != nil {
			cancel(err) // whatever is being sent is for nothing
		}
		answer <- err
	}()
	err := s.send(sending)
	if err == nil {
		err = fault.Point(sending, Sent)
	}
	if err == nil {
		if err = <-answer; err == nil {
			_ = s.link.stream.CloseSend() // the target has it, whether it hears that
			return d.notes(), nil
		}
		if said(err) {
			return nil, s.link.fail(ctx, err)
		}
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnknown, err), context.Cause(ctx))
	}
	var own bool
	if own = sending.Err() == nil && !broken(err); own {
		_ = s.link.put(ctx, kindFail, failureOf(err)) // the target may be gone
	}
	defer s.link.hurry()()
	if said := <-answer; !own && said != nil {
		err = said // the reason, rather than that the stream ended
	}
	return nil, s.link.fail(ctx, err)
}

// send sends all files.
func (s *source) send(ctx context.Context) error {
	for _, f := range s.memory {
		if err := s.link.put(ctx, kindItem, item{Memory: f.ID}); err != nil {
			return err
		}
		if err := s.file(ctx, s.stores.Memory.Path(f.ID), f.SizeBytes); err != nil {
			return err
		}
	}
	for _, f := range s.files {
		path := s.stores.HostFiles.Path(f)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("look at %s: %w", path, err)
		}
		if err := s.link.put(ctx, kindItem, item{File: f.ID, Seconds: st.Mtim.Sec, Nanoseconds: st.Mtim.Nsec}); err != nil {
			return err
		}
		if err := s.file(ctx, path, f.SizeBytes); err != nil {
			return err
		}
	}
	for _, w := range s.layers {
		files, err := s.stores.Layers.Files(w.ref.ID)
		if err != nil {
			return err
		}
		if err := s.tree(ctx, item{Content: w.content}, s.stores.Layers.Path(w.ref.ID), files); err != nil {
			return err
		}
	}
	if err := s.tree(ctx, item{}, string(s.dir), s.m.OwnFiles()); err != nil {
		return err
	}
	return s.link.put(ctx, kindEnd, struct{}{})
}

func (s *source) tree(ctx context.Context, it item, dir string, files []tree.File) error {
	if err := s.link.put(ctx, kindItem, it); err != nil {
		return err
	}
	return tree.Entries(dir, files, func(e *tree.Entry) error {
		if err := s.link.put(ctx, kindEntry, e); err != nil {
			return err
		}
		if !e.HasData() {
			s.meter.file(0, s.link.sent)
			return nil
		}
		return s.file(ctx, filepath.Join(dir, string(e.Path)), e.SizeBytes)
	})
}

// file sends what is in a file.
func (s *source) file(ctx context.Context, path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	came := int64(0)
	err = eachPiece(ctx, f, size, func(at int64, b []byte) error {
		end := at + int64(len(b))
		s.meter.bytes(end-came, s.link.sent)
		came = end
		return s.link.putData(ctx, at, b)
	})
	s.meter.file(size-came, s.link.sent)
	return err
}
