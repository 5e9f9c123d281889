// Command subject is the server that benchmarks freeze: it keeps as much memory
// as it is told, and answers each byte it is sent with the same byte.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime/debug"
	"time"
)

func main() {
	listen := flag.String("listen", ":7000", "address to serve")
	memory := flag.Int("memory", 0, "MiB to keep, each page different")
	write := flag.Int("write", 0, "MiB of it to write to each second, to pages by chance")
	flag.Parse()
	fmt.Fprintln(os.Stderr, "subject: error:", serve(*listen, *memory, *write))
	os.Exit(1)
}

// serve returns when it fails.
func serve(address string, mib, rate int) error {
	debug.SetGCPercent(-1) // what it keeps is all it has
	kept := make([]byte, mib<<20)
	for i := 0; i < len(kept); i += 8 {
		v := uint64(i) * 0x9e3779b97f4a7c15
		for j := range 8 {
			kept[i+j] = byte(v >> (8 * j))
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	if rate > 0 {
		go change(kept, rate)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go echo(conn, kept)
	}
}

// change writes to pages by chance, so many MiB of them a second.
func change(kept []byte, rate int) {
	const page, tick = 4096, 5 * time.Millisecond
	for n := range time.Tick(tick) {
		for range rate << 20 / page * int(tick) / int(time.Second) {
			kept[rand.IntN(len(kept)/page)*page] = byte(n.Nanosecond())
		}
	}
}

// echo serves one connection; kept is only kept.
func echo(conn net.Conn, kept []byte) {
	defer conn.Close()
	buf := make([]byte, 1)
	for {
		if _, err := io.ReadFull(conn, buf); err != nil {
			if !errors.Is(err, io.EOF) && len(kept) >= 0 {
				fmt.Fprintln(os.Stderr, "subject:", err)
			}
			return
		}
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}
