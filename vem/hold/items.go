package hold

import (
	"encoding/json"
	"fmt"

	"github.com/snapctl/snapctl/vem/holder"
)

// Items lists the set for a holder: every socket by its key, with all that is
// known of it as meta. The set still owns the files.
func (s *Set) Items() ([]holder.Item, error) {
	items := make([]holder.Item, len(s.Sockets))
	for i, sock := range s.Sockets {
		meta, err := json.Marshal(sock)
		if err != nil {
			return nil, fmt.Errorf("encode socket %d: %w", sock.Inode, err)
		}
		items[i] = holder.Item{Key: sock.Key(), File: sock.File, Meta: meta}
	}
	return items, nil
}

// FromItems makes a set of what [Set.Items] gave to a holder. The set owns the
// files from now on; if it fails, the caller still does.
func FromItems(items []holder.Item) (*Set, error) {
	sockets := make([]Socket, len(items))
	for i, it := range items {
		if err := json.Unmarshal(it.Meta, &sockets[i]); err != nil {
			return nil, fmt.Errorf("decode socket %s: %w", it.Key, err)
		}
		sockets[i].File = it.File
	}
	return NewSet(sockets), nil
}
