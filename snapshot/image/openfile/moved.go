package openfile

import (
	"fmt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// MoveSockets binds unix sockets, by their inodes in the dump, to other paths than those
// that they were bound to: where their files were last. Errors are as those of
// [Replace].
func MoveSockets(v *image.View, paths map[uint64]string) error {
	if len(paths) == 0 {
		return nil
	}
	img, err := v.Decode("files.img", image.TypeFiles)
	if err != nil {
		return fmt.Errorf("move unix sockets: %w", err)
	}
	for i, rec := range img.Records {
		file, err := image.ParseOpenFile(rec.Message)
		if err != nil {
			return fmt.Errorf("move unix sockets: file %d: %w", i, err)
		}
		place, ok := paths[file.Inode]
		if file.Kind != image.FileUnixSk || !ok {
			continue
		}
		var msg []byte
		s := wire.Scan(rec.Message)
		for s.Next() {
			if s.Is(image.FileEntryUnix, wire.Bytes) {
				body, err := moveSocket(s.Bytes, place)
				if err != nil {
					return fmt.Errorf("move unix socket %d: %w", file.Inode, err)
				}
				msg = wire.AppendBytes(msg, image.FileEntryUnix, body)
			} else {
				msg = append(msg, s.Raw...)
			}
		}
		if s.Err != nil {
			return fmt.Errorf("move unix socket %d: %w", file.Inode, s.Err)
		}
		img.Records[i].Message = msg
	}
	if err := v.Replace("files.img", img.Encode()); err != nil {
		return fmt.Errorf("move unix sockets: %w", err)
	}
	return nil
}

// moveSocket edits a unix_sk_entry. A name has its terminating zero there, as in the
// kernel's own (net/unix/af_unix.c, unix_mkname_bsd).
func moveSocket(msg []byte, place string) ([]byte, error) {
	const name, dir, deleted, mount = 11, 14, 15, 17
	var out []byte
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case s.Is(name, wire.Bytes):
			out = wire.AppendBytes(out, name, append([]byte(place), 0))
		case s.Num == dir, s.Num == deleted, s.Num == mount:
		default:
			out = append(out, s.Raw...)
		}
	}
	return out, s.Err
}
