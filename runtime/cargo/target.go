package cargo

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// ReceiveOptions say what becomes of what is received.
type ReceiveOptions struct {
	// Place is told what is offered, before anything of it is sent. It returns the directory that the
	// snapshot is to become, at which nothing is, on the file system of the stores; or an error, which
	// the other host is told. It may change the manifest: all but what the snapshot consists of.
	Place func(m *snapshot.Manifest) (target string, err error)
	// Progress is told how far it is, again and again; may be nil. It must return at once.
	Progress func(Progress)
	// Notes are what is to be said about a snapshot that has come; may be nil.
	Notes func(ctx context.Context, r *Received) []string
	// Keep is told when the snapshot is there for good, before the other host is; may be nil. If it fails the snapshot
	// is removed again.
	Keep func(r *Received) error
	// Peer is the other host, as errors name it.
	Peer string
}

// Received is a snapshot that has come from another host.
type Received struct {
	Dir      snapshot.Dir
	Manifest *snapshot.Manifest // as it is on this host
	Features []string           // of the source's processor, as [SendOptions] has them
	Report   Report

	release func()
}

// Release lets go of the memory files, layers and kept files. Whoever needs them has them in a record,
// or in a manifest that a sweep reads, by then. It is called once.
func (r *Received) Release() { r.release() }

// Refuse tells the other side of a stream, which calls [Send] or [Receive], that nothing comes of it. It
// returns the error. The caller closes the stream.
func Refuse(ctx context.Context, s Stream, err error) error {
	l, lerr := newLink(s, 0, "")
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	defer l.close()
	defer context.AfterFunc(ctx, s.Close)()
	return l.fail(ctx, err)
}

// Receive receives the snapshot that the other side of a stream sends by [Send]. It is checked and on
// the disk when Receive returns. If it fails, or is cancelled, which it may be at any moment, nothing
// is left of it; memory files, layers and kept files that have got their places are nobody's then, and
// go with the next sweep. The caller closes the stream.
//
// Returns a *[SpaceError] if there is no room, and an error wrapping [tree.ErrDamaged] or
// [memory.ErrDamaged] if something else was sent than was offered.
func Receive(ctx context.Context, s Stream, st Stores, o ReceiveOptions) (_ *Received, err error) {
	l, err := newLink(s, 0, o.Peer)
	if err != nil {
		return nil, err
	}
	defer l.close()
	defer context.AfterFunc(ctx, s.Close)()
	in := &intake{link: l, stores: st, meter: meter{tell: o.Progress}}
	r, err := in.receive(ctx, o.Place)
	if r != nil && o.Keep != nil {
		if err = o.Keep(r); err != nil {
			err, r = errors.Join(err, r.Dir.Remove()), nil
		}
	}
	err = errors.Join(err, in.tidy())
	if r == nil {
		in.unpin()
		return nil, l.fail(ctx, in.full(err))
	}
	// What could not be tidied up the next sweep removes.
	// The snapshot is there, whether the source learns of it or not.
	if o.Notes != nil {
		r.Report.Notes = o.Notes(ctx, r)
	}
	if l.put(ctx, kindDone, done{r.Report.Notes}) == nil {
		l.part()
	}
	return r, nil
}

func (in *intake) receive(ctx context.Context, place func(*snapshot.Manifest) (string, error)) (*Received, error) {
	if err := in.greet(place); err != nil {
		return nil, err
	}
	w, err := in.survey(ctx)
	if err != nil {
		return nil, err
	}
	if err := in.link.put(ctx, kindWant, w); err != nil {
		return nil, in.link.instead(err)
	}
	var p plan
	if err := read(in.link, kindPlan, &p); err != nil {
		return nil, err
	}
	if err := in.admit(p); err != nil {
		return nil, err
	}
	if err := fault.Point(ctx, Accepted); err != nil {
		return nil, err
	}
	if err := in.link.put(ctx, kindGo, struct{}{}); err != nil {
		return nil, in.link.instead(err)
	}
	if in.partial, err = snapshot.Begin(in.target); err != nil {
		return nil, err
	}
	if err := in.files(ctx); err != nil {
		return nil, err
	}
	if err := fault.Point(ctx, Filled); err != nil {
		return nil, err
	}
	if err := in.adopt(ctx); err != nil {
		return nil, err
	}
	if err := fault.Point(ctx, Adopted); err != nil {
		return nil, err
	}
	dir, err := in.partial.CommitForeign(ctx, in.m, in.stores.Memory)
	if err != nil {
		return nil, errors.Join(err, removeCommitted(dir))
	}
	if err := fault.Point(ctx, Committed); err != nil {
		return nil, errors.Join(err, dir.Remove())
	}
	return &Received{Dir: dir, Manifest: in.m, Features: in.features, Report: Report{Progress: in.meter.last(in.link.got)}, release: in.unpin}, nil
}

// removeCommitted removes a snapshot that has its name, and may not have it on the disk.
func removeCommitted(dir snapshot.Dir) error {
	if dir == "" {
		return nil
	}
	return dir.Remove()
}

// greet reads what is offered.
func (in *intake) greet(place func(*snapshot.Manifest) (string, error)) error {
	var o offer
	if err := read(in.link, kindOffer, &o); err != nil {
		return err
	}
	if o.Version != version {
		return fmt.Errorf("the other host sends snapshots by version %d of the protocol, and this one knows %d: upgrade snapctl on the older one", o.Version, version)
	}
	m, err := snapshot.ParseManifest(o.Manifest)
	if err != nil {
		return err
	}
	if err := checkOffer(m, o); err != nil {
		return err
	}
	in.m, in.contents, in.features = m, o.Contents, o.Features
	in.target, err = place(m)
	return err
}

// mostBytes bounds sizes, so that sums of them are numbers.
const mostBytes = 1 << 46

// checkOffer checks what a manifest that is valid may say and another host may not.
func checkOffer(m *snapshot.Manifest, o offer) error {
	if len(o.Contents) != len(m.Layers) {
		return malformed("%d contents of %d layers", len(o.Contents), len(m.Layers))
	}
	for _, c := range o.Contents {
		if err := c.Validate(); err != nil {
			return malformed("%v", err)
		}
	}
	total := int64(0)
	add := func(size int64) bool {
		if size < 0 || size > mostBytes {
			return false
		}
		total += size
		return total <= mostBytes
	}
	sizes := make(map[memory.ID]int64)
	for _, f := range m.MemoryFiles() {
		if known, twice := sizes[f.ID]; twice && known != f.SizeBytes || !add(f.SizeBytes) {
			return malformed("the size of memory file %s", f.ID)
		}
		sizes[f.ID] = f.SizeBytes
	}
	for i := range m.HostFiles {
		if !add(m.HostFiles[i].SizeBytes) {
			return malformed("the size of kept file %s", m.HostFiles[i].Path)
		}
	}
	for _, l := range m.Layers {
		if !add(l.SizeBytes) {
			return malformed("the size of layer %s", l.ID)
		}
	}
	for i := range m.Files {
		if !add(m.Files[i].SizeBytes) {
			return malformed("the size of %s", m.Files[i].Path)
		}
	}
	return nil
}
