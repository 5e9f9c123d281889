package session

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/runtime/client"
)

func TestReport(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		uid  int
		code ExitCode
		want string
	}{
		"plain": {err: errors.New("no luck"), code: Failed, want: "snapctl: error: no luck\n"},
		"several lines": {
			err: errors.New("dump cache: criu failed\n(00.1) Error: x\n\ttab \x1b[31m\n"), code: Failed,
			want: "snapctl: error: dump cache: criu failed\n  (00.1) Error: x\n      tab \\x1b[31m\n",
		},
		"not root": {
			err: fmt.Errorf("connect to s: %w", fs.ErrPermission), uid: 1000, code: Failed,
			want: "snapctl: error: connect to s: permission denied\nsnapctl: hint: only root may use snapctl: try `sudo snapctl`\n",
		},
		"root without rights": {
			err: fs.ErrPermission, code: Failed,
			want: "snapctl: error: permission denied\nsnapctl: hint: the socket can't be opened even by root: " +
				"look for a security module's or a container's restrictions\n",
		},
		"daemon gone": {
			err: fmt.Errorf("error reading from server: EOF: %w", errdefs.ErrUnavailable), code: Failed,
			want: "snapctl: error: error reading from server: EOF: unavailable\n" +
				"snapctl: hint: snapctld went away; it finishes or undoes what was begun when it starts: `systemctl status snapctld`\n",
		},
		"older daemon": {
			err: fmt.Errorf("unknown method Foo: %w", errdefs.ErrNotImplemented), code: Unsupported,
			want: "snapctl: error: unknown method Foo: not implemented\n" +
				"snapctl: hint: snapctld is older than snapctl: `systemctl restart snapctld`; apps go on meanwhile\n",
		},
		"silent":   {err: &ExitError{Code: 42}, code: 42},
		"argument": {err: fmt.Errorf("name: %w", errdefs.ErrInvalidArgument), code: Usage, want: "snapctl: error: name: invalid argument\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			s := &Session{World: World{Err: &out, UID: test.uid}}
			qt.Check(t, qt.Equals(s.Report(&cobra.Command{Use: "x"}, test.err), test.code))
			qt.Check(t, qt.Equals(out.String(), test.want))
		})
	}
}

func TestSocketChoice(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	set := func(string) (string, bool) { return "/env", true }
	qt.Check(t, qt.Equals((&Session{World: World{Env: none}}).Address(), client.DefaultSocket))
	qt.Check(t, qt.Equals((&Session{World: World{Env: set}}).Address(), "/env"))
	qt.Check(t, qt.Equals((&Session{World: World{Env: set}, Socket: "/flag"}).Address(), "/flag"))
}

func TestMentions(t *testing.T) {
	qt.Check(t, qt.IsTrue(mentions("app cache: not found", "cache")))
	qt.Check(t, qt.IsFalse(mentions("app cache-1: not found", "cache")))
	qt.Check(t, qt.IsFalse(mentions("no luck", "cache")))
}
