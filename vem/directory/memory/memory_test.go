package memory_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/directorytest"
	"github.com/snapctl/snapctl/vem/directory/memory"
)

func TestSuite(t *testing.T) {
	server := memory.New()
	directorytest.Run(t, func(*testing.T) directory.Store { return server.Open() }, directorytest.Options{
		TTL:     1, // nothing waits for it
		Compact: func(*testing.T) { server.Compact() },
		Drop:    func(*testing.T) { server.Drop() },
		Cut: func(t *testing.T, s directory.Store) func() {
			t.Helper()
			s.(*memory.Store).Set(memory.Cut)
			return func() { s.(*memory.Store).Set(memory.None) }
		},
	})
}

func TestSuiteStalled(t *testing.T) {
	server := memory.New()
	directorytest.Run(t, func(*testing.T) directory.Store { return server.Open() }, directorytest.Options{
		TTL: 1,
		Cut: func(t *testing.T, s directory.Store) func() {
			t.Helper()
			s.(*memory.Store).Set(memory.Stalled)
			return func() { s.(*memory.Store).Set(memory.None) }
		},
	})
}

func put(key, value string) directory.Txn {
	return directory.Txn{If: []directory.Condition{{Key: key}}, Puts: []directory.Put{{Key: key, Value: []byte(value)}}}
}

func TestFaults(t *testing.T) {
	server := memory.New()
	s, other := server.Open(), server.Open()
	there := func(key string) bool {
		_, err := other.Get(t.Context(), key)
		return err == nil
	}
	s.Next(memory.Cut, memory.Lost, memory.None, memory.Late)
	_, err := s.Commit(t.Context(), put("cut", ""))
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Check(t, qt.IsFalse(there("cut")))
	_, err = s.Commit(t.Context(), put("lost", ""))
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Check(t, qt.IsTrue(there("lost")))
	_, err = s.Commit(t.Context(), put("none", ""))
	qt.Check(t, qt.IsNil(err))
	_, err = s.Commit(t.Context(), put("late", ""))
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Check(t, qt.IsFalse(there("late")))
	qt.Check(t, qt.DeepEquals(s.Deliver(), []error{nil}))
	qt.Check(t, qt.IsTrue(there("late")))
	var conflict *directory.ConflictError
	qt.Check(t, qt.ErrorAs(s.Deliver()[0], &conflict))
	s.Forget()
	qt.Check(t, qt.HasLen(s.Deliver(), 0))
	_, err = s.Commit(t.Context(), put("none", ""))
	qt.Check(t, qt.ErrorAs(err, &conflict))
}

// A commit that is stalled happens when the store goes on.
func TestStalled(t *testing.T) {
	server := memory.New()
	s := server.Open()
	s.Set(memory.Stalled)
	done := make(chan error)
	go func() {
		_, err := s.Commit(t.Context(), put("a", ""))
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("commit returned %v while the store stood still", err)
	default:
	}
	s.Set(memory.None)
	qt.Check(t, qt.IsNil(<-done))
	qt.Check(t, qt.Equals(server.Revision(), 1))
}

func TestRestore(t *testing.T) {
	server := memory.New()
	s := server.Open()
	for i := range 3 {
		_, err := s.Commit(t.Context(), put(fmt.Sprint(i), ""))
		qt.Assert(t, qt.IsNil(err))
	}
	backup := server.Backup()
	_, err := s.Commit(t.Context(), put("later", ""))
	qt.Assert(t, qt.IsNil(err))
	server.Restore(backup)
	entries, rev, err := s.List(t.Context(), "")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(entries, 3))
	qt.Check(t, qt.Equals(rev, 3))
	_, err = s.Watch(t.Context(), "", 2)()
	qt.Check(t, qt.ErrorIs(err, directory.ErrCompacted))
	server.Restore(memory.Backup{})
	entries, rev, err = s.List(t.Context(), "")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(entries, 0))
	qt.Check(t, qt.Equals(rev, 0))
}

// What is not watched for long is forgotten: memory is bounded.
func TestBounded(t *testing.T) {
	server := memory.New()
	s := server.Open()
	for range 10_010 {
		_, err := s.Commit(t.Context(), directory.Txn{Puts: []directory.Put{{Key: "a"}}})
		qt.Assert(t, qt.IsNil(err))
	}
	_, err := s.Watch(t.Context(), "", 9)()
	qt.Check(t, qt.ErrorIs(err, directory.ErrCompacted))
	changes, err := s.Watch(t.Context(), "", 10)()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(changes[0].Revision, 11))
}

// A host that is cut off while it ends leaves its entry, until the server drops it.
func TestKeptByNobody(t *testing.T) {
	server := memory.New()
	s, other := server.Open(), server.Open()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.KeepAlive(ctx, "a", nil, 0) }()
	_, err := other.Watch(t.Context(), "", 0)()
	qt.Assert(t, qt.IsNil(err))
	s.Set(memory.Cut)
	cancel()
	qt.Check(t, qt.ErrorIs(<-done, context.Canceled))
	_, err = other.Get(t.Context(), "a")
	qt.Check(t, qt.IsNil(err))
	server.Drop()
	_, err = other.Get(t.Context(), "a")
	qt.Check(t, qt.IsTrue(errors.Is(err, directory.ErrNotFound)))
}
