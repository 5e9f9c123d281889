package tree

import (
	"encoding/json"
	"errors"
	"unicode/utf8"
)

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

// plain is a File as its fields say.
type plain File

// written is a File as it is written: a name of a file is any bytes, and JSON has only those of UTF-8.
type written struct {
	plain

	PathBytes     []byte `json:"path_bytes,omitempty"`     // if Path has not its bytes
	RedirectBytes []byte `json:"redirect_bytes,omitempty"` // likewise
}

// MarshalJSON implements [json.Marshaler].
func (f File) MarshalJSON() ([]byte, error) {
	w := written{plain: plain(f)}
	if !utf8.ValidString(f.Path) {
		w.PathBytes = []byte(f.Path)
	}
	if !utf8.ValidString(f.Redirect) {
		w.RedirectBytes = []byte(f.Redirect)
	}
	return json.Marshal(w)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (f *File) UnmarshalJSON(b []byte) error {
	var w written
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	if w.PathBytes != nil {
		w.Path = string(w.PathBytes)
	}
	if w.RedirectBytes != nil {
		w.Redirect = string(w.RedirectBytes)
	}
	*f = File(w.plain)
	return nil
}
