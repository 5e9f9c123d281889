package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/snapctl/snapctl/runtime/client"
)

// Terminal is what the user sits at. Streams are those of the [World].
type Terminal interface {
	// Is tells whether a stream is a terminal.
	Is(stream any) bool
	// Raw makes a terminal pass on every key, until restore is called.
	Raw(stream any) (restore func() error, err error)
	// Size is that of a terminal.
	Size(stream any) (client.Size, error)
	// Resized tells each new size until ctx ends; then the channel is closed.
	Resized(ctx context.Context, stream any) <-chan client.Size
}

// Console is the real terminal: streams are files.
type Console struct{}

var errNoTerminal = errors.New("not a terminal")

// Is implements [Terminal].
func (Console) Is(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Raw implements [Terminal].
func (Console) Raw(stream any) (restore func() error, err error) {
	f, ok := stream.(*os.File)
	if !ok {
		return nil, errNoTerminal
	}
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("make terminal raw: %w", err)
	}
	return func() error {
		if err := term.Restore(int(f.Fd()), old); err != nil {
			return fmt.Errorf("restore terminal: %w", err)
		}
		return nil
	}, nil
}

// Size implements [Terminal].
func (Console) Size(stream any) (client.Size, error) {
	f, ok := stream.(*os.File)
	if !ok {
		return client.Size{}, errNoTerminal
	}
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return client.Size{}, fmt.Errorf("get size of terminal: %w", err)
	}
	return client.Size{Rows: uint32(rows), Columns: uint32(columns)}, nil
}

// Resized implements [Terminal].
func (c Console) Resized(ctx context.Context, stream any) <-chan client.Size {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	sizes := make(chan client.Size)
	go func() {
		defer close(sizes)
		defer signal.Stop(changed)
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			size, err := c.Size(stream)
			if err != nil {
				continue // it is gone: there will be no other size
			}
			select {
			case sizes <- size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}
