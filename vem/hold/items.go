package hold

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/vem/holder"
)

// Items lists the set for a holder: every socket and object by its key, with all
// that is known of it as meta. The set still owns the files.
func (s *Set) Items() ([]holder.Item, error) {
	items := make([]holder.Item, 0, len(s.Sockets)+len(s.Objects))
	for _, sock := range s.Sockets {
		meta, err := json.Marshal(sock)
		if err != nil {
			return nil, fmt.Errorf("encode socket %d: %w", sock.Inode, err)
		}
		items = append(items, holder.Item{Key: sock.Key(), File: sock.File, Meta: meta})
	}
	for _, o := range s.Objects {
		meta, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("encode %s %d: %w", o.Kind, o.Number, err)
		}
		items = append(items, holder.Item{Key: o.Key(), File: o.File, Meta: meta})
	}
	return items, nil
}

// FromItems makes a set of what [Set.Items] gave to a holder. The set owns the
// files from now on; if it fails, the caller still does.
func FromItems(items []holder.Item) (*Set, error) {
	var sockets []Socket
	var objects []Object
	for _, it := range items {
		if strings.HasSuffix(it.Key, objectSuffix) {
			o := Object{File: it.File}
			if err := json.Unmarshal(it.Meta, &o); err != nil {
				return nil, fmt.Errorf("decode object %s: %w", it.Key, err)
			}
			objects = append(objects, o)
			continue
		}
		s := Socket{File: it.File}
		if err := json.Unmarshal(it.Meta, &s); err != nil {
			return nil, fmt.Errorf("decode socket %s: %w", it.Key, err)
		}
		sockets = append(sockets, s)
	}
	set := NewSet(sockets)
	set.Objects = objects
	slices.SortFunc(objects, func(a, b Object) int { return a.Number - b.Number })
	return set, nil
}
