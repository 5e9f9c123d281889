package tree

import "errors"

// File describes one file of a tree.
type File struct {
	Path      string `json:"path"` // slash-separated, relative to the tree
	Type      string `json:"type"` // "file", "dir", "symlink", "other"
	SizeBytes int64  `json:"size_bytes,omitempty"`
	SHA256    string `json:"sha256,omitempty"` // of a file's bytes or a link's target
	Mode      uint32 `json:"mode"`             // st_mode
	// Marks and Links are those of a file of a storage layer.
	Marks
	Links int `json:"links,omitempty"` // st_nlink of a regular file, if it is more than 1
	// Stamp changes whenever the file is changed on this host; it stands in
	// for the digest where reading every byte again would cost too much. In the
	// list of a layer it tells what no digest does: owners, times and attributes.
	Stamp string `json:"stamp,omitempty"`
}

// ErrDamaged is a snapshot, or something that it consists of, whose files are not what its manifest
// says, or what the list of a layer says.
var ErrDamaged = errors.New("snapshot is damaged")
