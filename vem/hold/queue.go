package hold

// Queue describes a POSIX message queue, but for its messages. While the queue is held this
// description is not needed. It is for making the queue again, empty, if the queue was lost:
// see [Set.Queues].
type Queue struct {
	Name     string     `json:"name"`               // with a slash
	Unlinked bool       `json:"unlinked,omitempty"` // it has this name no more
	Inode    uint64     `json:"inode"`
	Mode     uint32     `json:"mode"` // permissions
	UID      int        `json:"uid"`
	GID      int        `json:"gid"`
	Messages int        `json:"messages"`       // how many it takes
	Size     int        `json:"size_bytes"`     // of the largest
	Flags    int        `json:"flags"`          // of an open one, as in open(2)
	Owner    Descriptor `json:"owner,omitzero"` // of an open one
}

// Queues lists the queues of the set: each open one for each time that it was
// opened, and those that nobody has open.
func (s *Set) Queues() []Queue {
	open := map[uint64]bool{}
	for _, o := range s.Objects {
		if o.Queue != nil {
			open[o.Queue.Inode] = true
		}
	}
	var out []Queue
	for _, q := range s.Named {
		if !open[q.Inode] {
			out = append(out, q)
		}
	}
	for _, o := range s.Objects {
		if o.Queue != nil {
			q := *o.Queue
			q.Owner = o.Owners[0]
			out = append(out, q)
		}
	}
	return out
}
