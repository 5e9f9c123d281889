// Package limit bounds what peers and strangers may have of a server: [Conns] bounds
// connections, and [Calls] bounds what is asked over them.
package limit

import (
	"container/list"
	"sync"
)

// Conns is a bounded set of connections. When it is full, the oldest one gives way to a new one:
// so whoever takes a place and does nothing with it keeps nobody out, and a peer that connects
// again is let in although its lost connection is not known to be lost yet.
//
// Its methods may be called at the same time.
type Conns struct {
	perKey int
	total  int

	mu    sync.Mutex
	all   *list.List            // of *conn, the oldest first
	byKey map[string]*list.List // of *conn, the oldest first; no empty lists
}

// conn is a connection in both lists.
type conn struct {
	key          string
	end          func()
	inAll, inKey *list.Element
}

// NewConns returns an empty set that has room for total connections, and for perKey of them with
// one key. Both are at least 1.
func NewConns(perKey, total int) *Conns {
	return &Conns{perKey: perKey, total: total, all: list.New(), byKey: make(map[string]*list.List)}
}

// Add puts a connection into the set, and calls end of the one that it takes the place of, which
// is that of the oldest with the same key or else of the oldest at all. end must not block, and
// is called without a lock. remove takes the connection out of the set, and can be repeated; it
// is needed after end as well as it is harmless.
//
// dropped tells whether another one had to give way.
func (c *Conns) Add(key string, end func()) (remove func(), dropped bool) {
	added := &conn{key: key, end: end}
	old := c.put(added)
	if old != nil {
		old.end()
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.take(added)
	}, old != nil
}

// put adds a connection, and returns the one that gave way to it, or nil.
func (c *Conns) put(added *conn) (old *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := c.byKey[added.key]
	switch {
	case same != nil && same.Len() >= c.perKey:
		old = oldest(same)
	case c.all.Len() >= c.total:
		old = oldest(c.all)
	}
	if old != nil {
		c.take(old)
	}
	if same = c.byKey[added.key]; same == nil {
		same = list.New()
		c.byKey[added.key] = same
	}
	added.inAll, added.inKey = c.all.PushBack(added), same.PushBack(added)
	return old
}

// take removes a connection from both lists, if it is there. c.mu is held.
func (c *Conns) take(old *conn) {
	if old.inAll == nil {
		return
	}
	c.all.Remove(old.inAll)
	same := c.byKey[old.key]
	same.Remove(old.inKey)
	if same.Len() == 0 {
		delete(c.byKey, old.key)
	}
	old.inAll, old.inKey = nil, nil
}

// End calls end of all connections with a key, and takes them out of the set.
func (c *Conns) End(key string) {
	for _, old := range c.takeAll(key) {
		old.end()
	}
}

func (c *Conns) takeAll(key string) []*conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	var taken []*conn
	for same := c.byKey[key]; same != nil && same.Len() > 0; {
		old := oldest(same)
		c.take(old)
		taken = append(taken, old)
	}
	return taken
}

// Len returns how many connections are in the set.
func (c *Conns) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all.Len()
}

// oldest returns the first of a list that is not empty.
func oldest(l *list.List) *conn {
	return l.Front().Value.(*conn) //nolint:errcheck,forcetypeassert // nothing else is in it
}
