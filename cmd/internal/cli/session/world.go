package session

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/doctor"
)

// World is everything outside of the program.
type World struct {
	In       io.Reader
	Out, Err io.Writer
	Terminal Terminal

	Env func(name string) (value string, ok bool)
	Dir func() (string, error) // the working directory
	Now func() time.Time
	UID int

	Dial   func(ctx context.Context, socket string) (*client.Client, error)
	Doctor func(ctx context.Context, opt doctor.Options) []doctor.Check
	Build  output.Build // which program this is
}

// System is the world as it is. version is this program's.
func System(version string) World {
	return World{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Terminal: Console{},
		Env: os.LookupEnv, Dir: os.Getwd, Now: time.Now, UID: os.Geteuid(),
		Dial: client.Dial, Doctor: doctor.Run,
		Build: output.Build{Version: version, GoVersion: runtime.Version()},
	}
}

// Absolute is a path as the daemon, which works elsewhere, has to be told it.
func (w *World) Absolute(path string) (string, error) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	dir, err := w.Dir()
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", path, err)
	}
	return filepath.Join(dir, path), nil
}
