package server

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
)

func TestTailOfALog(t *testing.T) {
	long := strings.Repeat("x", 70<<10) // longer than what is read at once
	for _, test := range []struct {
		log   string
		lines int64
		want  string
	}{
		{"one\ntwo\nthree\n", 0, "one\ntwo\nthree\n"},
		{"one\ntwo\nthree\n", 1, "three\n"},
		{"one\ntwo\nthree\n", 2, "two\nthree\n"},
		{"one\ntwo\nthree\n", 9, "one\ntwo\nthree\n"},
		{"one\ntwo", 1, "two"},
		{"one\n\n", 1, "\n"},
		{"", 3, ""},
		{"one\n" + long + "\n", 1, long + "\n"},
		{"one\n" + long + "\ntwo\n", 2, long + "\ntwo\n"},
	} {
		path := filepath.Join(t.TempDir(), "log")
		qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(test.log), 0o600)))
		f, err := os.Open(path)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(seekTail(f, test.lines)))
		var got strings.Builder
		qt.Assert(t, qt.IsNil(drain(f, func(b []byte) error { got.Write(b); return nil })))
		qt.Check(t, qt.Equals(got.String(), test.want), qt.Commentf("%d lines of %d bytes", test.lines, len(test.log)))
		qt.Assert(t, qt.IsNil(f.Close()))
	}
}

// TestLogs proves what of a log a client gets, and when following it ends.
func TestLogs(t *testing.T) {
	w := begin(t)
	a := w.add(t, "web", app.Running)
	var got strings.Builder
	qt.Assert(t, qt.IsNil(w.Logs(t.Context(), &api.LogsRequest{Name: "web"}, &got)))
	qt.Check(t, qt.Equals(got.String(), "")) // it has none yet
	log, err := os.Create(a.Box.LogFile())
	qt.Assert(t, qt.IsNil(err))
	defer log.Close()
	_, err = log.WriteString("one\ntwo\n")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(w.Logs(t.Context(), &api.LogsRequest{Name: "web", TailLines: 1}, &got)))
	qt.Check(t, qt.Equals(got.String(), "two\n"))

	// What it prints is followed until it has ended.
	first := make(chan struct{})
	var all strings.Builder
	followed := &told{first: func() { close(first) }, to: &all}
	done := make(chan error, 1)
	go func() { done <- w.Logs(t.Context(), &api.LogsRequest{Name: "web", Follow: true}, followed) }()
	<-first
	_, err = log.WriteString("three\n")
	qt.Assert(t, qt.IsNil(err))
	a.Amend(func(r *app.Record) { r.Status = app.Stopped })
	qt.Assert(t, qt.IsNil(<-done))
	qt.Check(t, qt.Equals(all.String(), "one\ntwo\nthree\n"))

	ctx, cancel := context.WithCancel(t.Context())
	a.Amend(func(r *app.Record) { r.Status = app.Running })
	err = w.Logs(ctx, &api.LogsRequest{Name: "web", Follow: true}, &told{first: cancel, to: io.Discard})
	qt.Check(t, qt.ErrorIs(err, context.Canceled))
}

// TestLastLineOfALog proves that what an app prints just before it ends is not lost.
func TestLastLineOfALog(t *testing.T) {
	var log bytes.Buffer
	looks := 0
	over := func() bool {
		if looks++; looks == 1 {
			return false
		}
		log.WriteString("goodbye")
		return true
	}
	var got string
	qt.Assert(t, qt.IsNil(follow(t.Context(), &log, over, func(b []byte) error { got += string(b); return nil })))
	qt.Check(t, qt.Equals(got, "goodbye"))
}
