package clitest

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/runtime/client"
)

// NoTerminal is a [session.Terminal] where no stream is one.
type NoTerminal struct{}

// Is implements [session.Terminal].
func (*NoTerminal) Is(any) bool { return false }

// Raw implements [session.Terminal].
func (*NoTerminal) Raw(any) (func() error, error) { return nil, errors.ErrUnsupported }

// Size implements [session.Terminal].
func (*NoTerminal) Size(any) (client.Size, error) { return client.Size{}, errors.ErrUnsupported }

// Resized implements [session.Terminal].
func (*NoTerminal) Resized(context.Context, any) <-chan client.Size {
	none := make(chan client.Size)
	close(none)
	return none
}

// Screen is a [session.Terminal] that all streams are.
type Screen struct {
	Raws     int // how often it was made raw, and not restored
	WasRaw   bool
	Dims     client.Size
	ResizeTo []client.Size
}

// Is implements [session.Terminal].
func (s *Screen) Is(any) bool { return true }

// Raw implements [session.Terminal].
func (s *Screen) Raw(any) (func() error, error) {
	s.Raws++
	s.WasRaw = true
	return func() error {
		s.Raws--
		return nil
	}, nil
}

// Size implements [session.Terminal].
func (s *Screen) Size(any) (client.Size, error) { return s.Dims, nil }

// Resized implements [session.Terminal]. It tells each size of ResizeTo at once.
func (s *Screen) Resized(ctx context.Context, _ any) <-chan client.Size {
	sizes := make(chan client.Size)
	go func() {
		defer close(sizes)
		for _, size := range s.ResizeTo {
			select {
			case sizes <- size:
			case <-ctx.Done():
			}
		}
		<-ctx.Done()
	}()
	return sizes
}
