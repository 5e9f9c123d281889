// Package cargo carries a saved app from one host to another: its directory, and the memory files,
// layers and kept files that its manifest names. What the other host has already is not sent.
//
//	source                              target
//	offer   the manifest, and     ->    is it welcome? what of it is here?
//	        what layers contain   <-    want   what is missing
//	plan    how much that is      ->    is there room for it?
//	                              <-    go
//	files, piece by piece         ->    written beside their places
//	end                           ->    compared with their digests, brought to the disk, placed
//	                              <-    done
//
// Memory files and kept files are known by their digests, and layers by their contents, see
// [layer.Store.Content]: their own names have to do with this host's inodes. The snapshot gets a new
// manifest at the target, with the stamps that its files have there.
//
// Whole pages of zeros are not sent, and are holes at the target. Other pieces are compressed if that
// makes them smaller.
//
// Either side may be the one that opened the stream. A host of the installation sends what it likes:
// whatever comes is checked before it is used, and nothing is written but below the places that the
// target has chosen. What a target has received in part is swept with the stores and with the
// snapshots, if its daemon is killed; otherwise it is removed at once.
package cargo

import (
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// Stream carries messages of at most message.MaxChunk bytes both ways, in their order. It is a
// [control.Stream].
type Stream interface {
	// Send waits while the other side does not read.
	Send(b []byte) error
	// Recv returns [io.EOF] after the last message.
	Recv() ([]byte, error)
	// CloseSend tells the other side that no message comes after this.
	CloseSend() error
	// Close ends the stream. A Send or Recv that waits returns.
	Close()
}

// Stores are what saved apps of a host share.
type Stores struct {
	Memory    *memory.Store
	Layers    *layer.Store
	HostFiles *hostfile.Store
}

// Progress is how far a transfer has come.
type Progress struct {
	SentBytes  int64 // on the wire, by the source; at the target: received
	DoneBytes  int64 // of the files that were missing
	TotalBytes int64 // of these files
	SavedBytes int64 // of the files that were there already
	Files      int   // that are done
	TotalFiles int
}

// Report is what became of a transfer.
type Report struct {
	Progress

	// Notes are what the target has to say about the snapshot: why no app could be made of it there now.
	Notes []string
}

// Points are where tests break a transfer.
func Points() []fault.Name {
	return []fault.Name{Offered, Sent, Accepted, Filling, Filled, Adopted, Committed}
}

// The points of a transfer: the first two are the source's.
const (
	Offered   fault.Name = "cargo.offered"   // the target knows what it is to get
	Sent      fault.Name = "cargo.sent"      // everything, and the target has not said that it is there
	Accepted  fault.Name = "cargo.accepted"  // nothing is written
	Filling   fault.Name = "cargo.filling"   // the first file is written
	Filled    fault.Name = "cargo.filled"    // all files are written, none is placed
	Adopted   fault.Name = "cargo.adopted"   // the stores have theirs, the snapshot has no name
	Committed fault.Name = "cargo.committed" // the snapshot is there for good, the source does not know
)
