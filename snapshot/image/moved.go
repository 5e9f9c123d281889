package image

import (
	"fmt"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// MoveSockets binds unix sockets, by their inodes in the dump, to other paths than those
// that they were bound to: where their files were last. Errors are as those of
// [View.ReplaceFiles].
func (v *View) MoveSockets(paths map[uint64]string) error {
	if len(paths) == 0 {
		return nil
	}
	img, err := v.Decode("files.img", TypeFiles)
	if err != nil {
		return fmt.Errorf("move unix sockets: %w", err)
	}
	for i, rec := range img.Records {
		file, err := ParseOpenFile(rec.Message)
		if err != nil {
			return fmt.Errorf("move unix sockets: file %d: %w", i, err)
		}
		place, ok := paths[file.inode]
		if file.Kind != fileUnixSk || !ok {
			continue
		}
		var msg []byte
		s := wire.Scan(rec.Message)
		for s.Next() {
			if s.Is(fileEntryUnix, wire.Bytes) {
				body, err := moveSocket(s.Bytes, place)
				if err != nil {
					return fmt.Errorf("move unix socket %d: %w", file.inode, err)
				}
				msg = wire.AppendBytes(msg, fileEntryUnix, body)
			} else {
				msg = append(msg, s.Raw...)
			}
		}
		if s.Err != nil {
			return fmt.Errorf("move unix socket %d: %w", file.inode, s.Err)
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
