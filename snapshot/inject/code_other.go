//go:build !amd64

package inject

import (
	"fmt"
	"runtime"
)

// callVfork is the number of a system call that is not there.
const callVfork = -1

var instruction []byte

type registers struct{}

func readRegisters(int) (registers, error) {
	return registers{}, fmt.Errorf("%w: not on %s", ErrUnsupported, runtime.GOARCH)
}

func (registers) write(int) error                              { return nil }
func (r registers) atCall(uint64, uintptr, []uint64) registers { return r }
func (registers) result() int64                                { return 0 }

func findSyscall(int) (uint64, error) { return 0, ErrUnsupported }
