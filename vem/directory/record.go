package directory

import "github.com/snapctl/snapctl/vem/directory/codec"

var (
	// ErrNewer is a record that a newer version of snapctl has written.
	ErrNewer = codec.ErrNewer
	// ErrRecord is a record that nothing can be made of.
	ErrRecord = codec.ErrRecord
)
