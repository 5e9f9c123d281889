package once

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

var errFailed = errors.New("failed")

func size(s string) int { return len(s) }

func name(peer string, n byte) Name { return Name{Peer: peer, ID: [16]byte{n}} }

// counter returns what answers, and counts how often it was asked.
func counter(n *int, answer string, err error) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { *n++; return answer, err }
}

func TestACallIsDoneOnce(t *testing.T) {
	m := New(Limits{Answers: 10, Bytes: 100, For: time.Hour}, size)
	n := 0
	for range 3 {
		a, err := m.Do(t.Context(), name("a", 1), [32]byte{7}, counter(&n, "yes", nil))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(a, "yes"))
	}
	qt.Check(t, qt.Equals(n, 1))
	_, err := m.Do(t.Context(), name("a", 1), [32]byte{8}, counter(&n, "yes", nil))
	qt.Check(t, qt.ErrorIs(err, ErrOther))
	_, err = m.Do(t.Context(), name("b", 1), [32]byte{8}, counter(&n, "yes", nil)) // another peer
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(n, 2))
	m.Forget("a")
	_, err = m.Do(t.Context(), name("a", 1), [32]byte{7}, counter(&n, "yes", nil))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(n, 3))
}

func TestACallThatFailedIsDoneAgain(t *testing.T) {
	m := New(Limits{Answers: 10, Bytes: 100, For: time.Hour}, size)
	n := 0
	_, err := m.Do(t.Context(), name("a", 1), [32]byte{}, counter(&n, "", errFailed))
	qt.Check(t, qt.ErrorIs(err, errFailed))
	a, err := m.Do(t.Context(), name("a", 1), [32]byte{}, counter(&n, "yes", nil))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(a, "yes"))
	qt.Check(t, qt.Equals(n, 2))
}

func TestLimits(t *testing.T) {
	tests := map[string]struct {
		limits     Limits
		remembered bool
	}{
		"room":    {Limits{Answers: 3, Bytes: 100, For: time.Hour}, true},
		"answers": {Limits{Answers: 2, Bytes: 100, For: time.Hour}, false},
		"bytes":   {Limits{Answers: 3, Bytes: 14, For: time.Hour}, false},
		"time":    {Limits{Answers: 3, Bytes: 100, For: time.Nanosecond}, false},
	}
	for what, test := range tests {
		t.Run(what, func(t *testing.T) {
			m := New(test.limits, size)
			n := 0
			for i := range byte(3) {
				_, err := m.Do(t.Context(), name("a", i), [32]byte{}, counter(&n, "12345", nil))
				qt.Assert(t, qt.IsNil(err))
			}
			_, err := m.Do(t.Context(), name("a", 0), [32]byte{}, counter(&n, "12345", nil))
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(n == 3, test.remembered))
		})
	}
}

// started returns a call that waits until it is told how it ends.
func started(t *testing.T, m *Memory[string]) (chan<- error, <-chan error) {
	t.Helper()
	begun := make(chan struct{})
	end, ended := make(chan error), make(chan error, 1)
	go func() {
		_, err := m.Do(t.Context(), name("a", 1), [32]byte{}, func(context.Context) (string, error) {
			close(begun)
			return "first", <-end
		})
		ended <- err
	}()
	<-begun
	return end, ended
}

func TestTheSameCallWaits(t *testing.T) {
	m := New(Limits{Answers: 10, Bytes: 100, For: time.Hour}, size)
	end, ended := started(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := 0
	_, err := m.Do(ctx, name("a", 1), [32]byte{}, counter(&n, "second", nil)) // who gives up does not wait
	qt.Check(t, qt.ErrorIs(err, context.Canceled))

	answer := make(chan string, 1)
	go func() {
		a, _ := m.Do(t.Context(), name("a", 1), [32]byte{}, counter(&n, "second", nil))
		answer <- a
	}()
	end <- nil
	qt.Check(t, qt.Equals(<-answer, "first"))
	qt.Check(t, qt.IsNil(<-ended))
	qt.Check(t, qt.Equals(n, 0))
}

func TestTheSameCallIsDoneIfTheFirstFails(t *testing.T) {
	m := New(Limits{Answers: 10, Bytes: 100, For: time.Hour}, size)
	end, ended := started(t, m)
	n := 0
	answer := make(chan string, 1)
	go func() {
		a, _ := m.Do(t.Context(), name("a", 1), [32]byte{}, counter(&n, "second", nil))
		answer <- a
	}()
	m.Forget("nobody")
	end <- errFailed
	qt.Check(t, qt.Equals(<-answer, "second"))
	qt.Check(t, qt.ErrorIs(<-ended, errFailed))
}

func TestAPeerIsForgottenDuringACall(t *testing.T) {
	m := New(Limits{Answers: 10, Bytes: 100, For: time.Hour}, size)
	end, ended := started(t, m)
	m.Forget("a")
	end <- nil
	qt.Check(t, qt.IsNil(<-ended))
	n := 0
	_, err := m.Do(t.Context(), name("a", 1), [32]byte{}, counter(&n, "second", nil))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(n, 1))
}
