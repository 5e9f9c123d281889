// Dice draws random numbers of each of Go's generators, once when it starts and once for
// each SIGUSR1. A line tells what came up.
package main

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand"
	mathrandv2 "math/rand/v2"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

func main() {
	runtime.LockOSThread() //nolint:forbidigo // each thread has a state of its own (runtime/rand.go)
	drawn := make(chan os.Signal, 1)
	signal.Notify(drawn, unix.SIGUSR1)
	seeded := mathrand.New(mathrand.NewSource(int64(rand.Text()[0]))) //nolint:gosec // that it repeats is the point
	for {
		fmt.Fprintf(os.Stdout, "crypto/rand=%s math/rand/v2=%x seeded=%x\n", rand.Text(), rand2(), seeded.Uint64())
		<-drawn
	}
}

func rand2() uint64 { return mathrandv2.Uint64() } //nolint:gosec // likewise
