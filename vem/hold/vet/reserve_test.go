package vet

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
)

// More sockets than the daemon may open are refused with the limit that would do.
func TestTooManySockets(t *testing.T) {
	var before unix.Rlimit
	qt.Assert(t, qt.IsNil(unix.Getrlimit(unix.RLIMIT_NOFILE, &before)))
	open, err := openDescriptors()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(open + 64), Max: before.Max})))
	defer func() { qt.Check(t, qt.IsNil(unix.Setrlimit(unix.RLIMIT_NOFILE, &before))) }()
	qt.Assert(t, qt.IsNil(reserve(8)))
	err = reserve(5000)
	qt.Assert(t, qt.ErrorIs(err, hold.ErrUnsupported))
	qt.Assert(t, qt.ErrorMatches(err, `.*the app has 5000 sockets open, and snapctld may open \d+ files.*LimitNOFILE=\d+ or more.*`))
}
