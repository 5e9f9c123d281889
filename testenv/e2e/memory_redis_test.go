package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// writes sends n commands by chance that can be repeated, and reads the answers,
// as many lines as commands.
func (r *redis) writes(random *rand.Rand, n int) {
	r.t.Helper()
	var commands strings.Builder
	for range n {
		key, value := random.IntN(3000), strings.Repeat(fmt.Sprint(random.IntN(1000)), 1+random.IntN(2000))
		switch random.IntN(9) {
		case 0, 1, 2:
			fmt.Fprintf(&commands, "SET s:%d %s\r\n", key, value)
		case 3:
			fmt.Fprintf(&commands, "APPEND s:%d %s\r\n", key, value)
		case 4:
			fmt.Fprintf(&commands, "HSET h:%d %d %s\r\n", key%100, key, value)
		case 5:
			fmt.Fprintf(&commands, "RPUSH l:%d %s\r\n", key%100, value)
		case 6:
			fmt.Fprintf(&commands, "ZADD z:%d %d %d\r\n", key%50, random.IntN(100), key)
		case 7:
			fmt.Fprintf(&commands, "SETBIT b:%d %d 1\r\n", key%20, random.IntN(200000))
		default:
			fmt.Fprintf(&commands, "UNLINK s:%d h:%d l:%d b:%d\r\n", key, key%100, (key+1)%100, key%20)
		}
	}
	sent := make(chan error, 1)
	go func() {
		_, err := r.conn.Write([]byte(commands.String()))
		sent <- err
	}()
	for range n {
		line := r.line()
		qt.Assert(r.t, qt.IsFalse(strings.HasPrefix(line, "-")), qt.Commentf("%s", line))
	}
	qt.Assert(r.t, qt.IsNil(<-sent))
}

// TestMemoryOfRedis hibernates one of two redis ten times, has both do the same,
// and compares the digests of all of their data. Its allocator is jemalloc,
// which trusts what it gave back to be zero.
func TestMemoryOfRedis(t *testing.T) {
	w := New(t, "redis-server")
	const seed = 7
	servers := make(map[string]*redis)
	for name, endpoint := range map[string]string{"cache": "10.77.0.7", "twin": "10.77.0.8"} {
		w.Run(&api.RunRequest{Name: name, Endpoint: endpoint, Args: []string{
			"redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes", "--io-threads", "2",
		}, Env: []string{"MALLOC_CONF=dirty_decay_ms:0,muzzy_decay_ms:0"}})
		servers[name] = w.redis(endpoint)
	}
	cache, twin := servers["cache"], servers["twin"]
	randoms := map[*redis]*rand.Rand{cache: rand.New(rand.NewPCG(seed, 0)), twin: rand.New(rand.NewPCG(seed, 0))}
	both := func(n int) {
		t.Helper()
		for r, random := range randoms {
			r.writes(random, n)
		}
		qt.Assert(t, qt.Equals(cache.do("DEBUG DIGEST"), twin.do("DEBUG DIGEST")))
	}
	both(20000)
	// Debian's is linked with a jemalloc that can't.
	t.Logf("CONFIG SET activedefrag yes: %s", cache.do("CONFIG SET activedefrag yes"))
	for generation := range 10 {
		digest := cache.do("DEBUG DIGEST")
		w.Hibernate("cache")
		w.Wake("cache")
		w.mapped(4 << 20)
		qt.Assert(t, qt.Equals(cache.do("DEBUG DIGEST"), digest))
		both(1500)
		switch generation % 3 {
		case 0:
			// All is given back, and new tables must be zero.
			for r := range randoms {
				qt.Assert(t, qt.Equals(r.do("FLUSHALL"), "+OK"))
				qt.Assert(t, qt.Equals(r.do("MEMORY PURGE"), "+OK"))
				qt.Assert(t, qt.Equals(r.do("DEBUG POPULATE 30000 many 8"), "+OK"))
			}
		case 1:
			// A child writes all of it, and it is read again.
			qt.Assert(t, qt.Equals(cache.do("DEBUG RELOAD"), "+OK"))
		case 2:
			// Its child is hibernated with it.
			qt.Assert(t, qt.Equals(cache.do("BGSAVE"), "+Background saving started"))
		}
		both(500)
	}
	both(3000)
}
