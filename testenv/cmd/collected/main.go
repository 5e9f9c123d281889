// Command collected is an app whose heap grows, shrinks, is collected and given
// back to the kernel without a pause, and that checks all that it reads of it.
//
// It answers a line on port 7000 with "ok STEPS", or what was wrong.
package main

import (
	"bufio"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
)

const workers = 4

// status is what all workers have to say.
type status struct {
	steps atomic.Int64
	wrong atomic.Pointer[string]
}

func (s *status) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.wrong.CompareAndSwap(nil, &text)
}

func main() {
	l, err := net.Listen("tcp", ":7000")
	if err != nil {
		fmt.Fprintln(os.Stderr, "collected: error:", err)
		os.Exit(1)
	}
	var s status
	for i := range workers {
		go work(&s, rand.New(rand.NewPCG(uint64(i), 1)))
	}
	go give(&s)
	for {
		conn, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "collected: error:", err)
			os.Exit(1)
		}
		go answer(&s, conn)
	}
}

func answer(s *status, conn net.Conn) {
	defer conn.Close()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		text := fmt.Sprintf("ok %d", s.steps.Load())
		if wrong := s.wrong.Load(); wrong != nil {
			text = "error: " + *wrong
		}
		if _, err := fmt.Fprintln(conn, text); err != nil {
			return
		}
	}
}

// give returns what is free to the kernel after so many steps of the workers.
func give(s *status) {
	for last := int64(0); ; runtime.Gosched() {
		if now := s.steps.Load(); now-last > 2000 {
			last = now
			debug.FreeOSMemory()
		}
	}
}

// node is memory with pointers, which a collector follows.
type node struct {
	left, right *node
	data        []byte
	sum         uint32
}

// work makes trees, maps and buffers, and looks at old ones.
func work(s *status, random *rand.Rand) {
	trees := make([]*node, 16)
	sums := make(map[string]uint32)
	buffers := make([][]byte, 32)
	for s.wrong.Load() == nil {
		i := random.IntN(len(trees))
		if want := trees[i].check(s); want < 0 {
			return
		}
		trees[i] = tree(s, random, 4+random.IntN(6))

		b := random.IntN(len(buffers))
		for k, c := range buffers[b] {
			if c != byte(k*7+b) {
				s.say("byte %d of a buffer of %d is %#x", k, len(buffers[b]), c)
				return
			}
		}
		buffers[b] = zeros(s, random.IntN(1<<random.IntN(21)+1))
		for k := range buffers[b] {
			buffers[b][k] = byte(k*7 + b)
		}

		key := fmt.Sprint(random.IntN(5000))
		if sum, ok := sums[key]; ok && sum != crc32.ChecksumIEEE([]byte(key)) {
			s.say("key %s has %#x", key, sum)
			return
		}
		sums[key] = crc32.ChecksumIEEE([]byte(key))
		if random.IntN(1000) == 0 {
			clear(sums)
			clear(trees)
			clear(buffers)
		}
		s.steps.Add(1)
	}
}

// zeros is new memory, which must be zero.
func zeros(s *status, n int) []byte {
	b := make([]byte, n)
	for i, c := range b {
		if c != 0 {
			s.say("byte %d of %d new ones is %#x", i, n, c)
			break
		}
	}
	return b
}

func tree(s *status, random *rand.Rand, depth int) *node {
	if depth == 0 {
		return nil
	}
	n := &node{data: zeros(s, random.IntN(300))}
	if n.left != nil || n.right != nil || n.sum != 0 {
		s.say("a new node is not zero: %+v", n)
	}
	for i := range n.data {
		n.data[i] = byte(random.Uint32())
	}
	n.sum = crc32.ChecksumIEEE(n.data)
	n.left, n.right = tree(s, random, depth-1), tree(s, random, depth-1)
	return n
}

// check counts the nodes; it returns -1 if one is wrong.
func (n *node) check(s *status) int {
	if n == nil {
		return 0
	}
	if sum := crc32.ChecksumIEEE(n.data); sum != n.sum {
		s.say("a node's data has sum %#x, want %#x", sum, n.sum)
		return -1
	}
	left, right := n.left.check(s), n.right.check(s)
	if left < 0 || right < 0 {
		return -1
	}
	return left + right + 1
}
