// Command gauge is the program that benchmarks look into: it keeps as much memory
// as it is told, and measures, when it is asked at port 7000, what reading and
// writing it costs, and what system calls do.
//
//	read | write | scan         a word of each page, or every word; nanoseconds
//	change MIB SEED             writes every word of the first MIB MiB; nanoseconds
//	call NAME COUNT             nanoseconds for so many; see calls
//	stream kept|fresh MIB       sends so much to itself, by a TCP connection that it
//	                            keeps or one that it makes; nanoseconds
//
// Each line that it is sent is answered by one.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	listen := flag.String("listen", ":7000", "address to serve")
	memory := flag.Int("memory", 0, "MiB to keep, each page different")
	var c crowd
	flag.IntVar(&c.threads, "threads", 0, "threads to have besides its own")
	flag.IntVar(&c.processes, "processes", 0, "processes to start, which wait")
	flag.IntVar(&c.files, "files", 0, "descriptors to have open: pipes, sockets, files")
	flag.Parse()
	err := c.gather()
	if err == nil {
		err = serve(*listen, *memory)
	}
	fmt.Fprintln(os.Stderr, "gauge: error:", err)
	os.Exit(1)
}

// pageWords is how many words a page has.
const pageWords = 4096 / 8

// gauge is the memory, outside of Go's heap, and where system calls go.
type gauge struct {
	words []uint64
	calls map[string]call
	kept  *stream // to itself; nil until it is asked for
	sum   uint64  // of what was read, so that reading is not left out
}

// serve returns when it fails.
func serve(address string, mib int) error {
	debug.SetGCPercent(-1) // no collection in a measurement; it makes little garbage
	g := new(gauge)
	var err error
	if g.calls, err = newCalls(); err != nil {
		return err
	}
	if mib > 0 {
		b, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("map memory: %w", err)
		}
		g.words = unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
		g.fill(g.words, 1)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for { // one client at a time: measurements must not meet
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		g.client(conn)
	}
}

func (g *gauge) client(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewScanner(conn)
	for in.Scan() {
		took, err := g.do(strings.Fields(in.Text()))
		answer := strconv.FormatInt(took.Nanoseconds(), 10)
		if err != nil {
			answer = "error " + err.Error()
		}
		if _, err := fmt.Fprintln(conn, answer); err != nil {
			return
		}
	}
}

func (g *gauge) do(words []string) (time.Duration, error) {
	if len(words) == 0 {
		return 0, errors.New("no command")
	}
	args := make([]int, 0, 2)
	for _, w := range words[1:] {
		if n, err := strconv.Atoi(w); err == nil {
			args = append(args, n)
		}
	}
	began := time.Now()
	switch {
	case words[0] == "read":
		for i := 0; i < len(g.words); i += pageWords {
			g.sum += g.words[i]
		}
	case words[0] == "write":
		for i := 0; i < len(g.words); i += pageWords {
			g.words[i]++
		}
	case words[0] == "scan":
		for _, w := range g.words {
			g.sum += w
		}
	case words[0] == "change" && len(args) == 2 && args[0]<<17 <= len(g.words):
		g.fill(g.words[:args[0]<<17], uint64(args[1]))
	case words[0] == "call" && len(words) == 3 && len(args) == 1:
		c, ok := g.calls[words[1]]
		if !ok {
			return 0, fmt.Errorf("no call %s", words[1])
		}
		return c.repeat(args[0])
	case words[0] == "stream" && len(words) == 3 && len(args) == 1:
		return g.carry(words[1], args[0])
	default:
		return 0, fmt.Errorf("no command %s", strings.Join(words, " "))
	}
	return time.Since(began), nil
}

// fill writes words that differ from each other, and from those of another seed.
func (g *gauge) fill(words []uint64, seed uint64) {
	for i := range words {
		words[i] = (uint64(i) + seed<<40) * 0x9e3779b97f4a7c15
	}
}
