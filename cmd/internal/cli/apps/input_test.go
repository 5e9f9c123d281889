package apps

import (
	"io"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
)

// The program's own standard input is a file which nothing can be written to,
// such as a terminal where nobody types.
func TestOpenInputEndsByClose(t *testing.T) {
	r, w, err := os.Pipe()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(r.Close())) })
	t.Cleanup(func() { qt.Check(t, qt.IsNil(w.Close())) })
	in, err := openInput(r)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.WriteString("a")
	qt.Assert(t, qt.IsNil(err))
	b := make([]byte, 10)
	n, err := in.Read(b)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b[:n]), "a"))

	read := make(chan error)
	go func() {
		_, err := in.Read(b)
		read <- err
	}()
	qt.Assert(t, qt.IsNil(in.Close()))
	qt.Assert(t, qt.Equals(<-read, io.EOF))
	_, err = w.WriteString("b") // not taken away by it
	qt.Assert(t, qt.IsNil(err))
	n, err = r.Read(b)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b[:n]), "b"))
}

func TestOpenInputEndsWithItsFile(t *testing.T) {
	r, w, err := os.Pipe()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(r.Close())) })
	qt.Assert(t, qt.IsNil(w.Close()))
	in, err := openInput(r)
	qt.Assert(t, qt.IsNil(err))
	_, err = in.Read(make([]byte, 1))
	qt.Assert(t, qt.Equals(err, io.EOF))
	qt.Assert(t, qt.IsNil(in.Close()))
}
