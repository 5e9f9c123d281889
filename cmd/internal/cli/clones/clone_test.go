package clones_test

import (
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/cmd/internal/cli"
	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/template"
)

func withTemplate(t *testing.T) *clitest.Bench {
	t.Helper()
	b := clitest.WithApp(t)
	qt.Assert(t, qt.Equals(b.Run(t.Context(), "template", "create", "web", "--from", "cache"), session.OK))
	b.Daemon.Templates[0].Parameters = []*api.Parameter{{Key: "A"}, {Key: "B"}}
	return b
}

func TestCloneRequest(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want *api.CloneRequest
	}{
		"nothing": {nil, &api.CloneRequest{Count: 1}},
		"all": {
			[]string{"--count", "2", "--name-pattern", "w{n:02}", "--start", "9", "--endpoint", "10.77.0.50", "--endpoint", "10.77.0.51", "--set", "A=1", "--set", "B=x=y", "--storage", "private", "--pool", "only", "--keep-going", "--timeout", "30s"},
			&api.CloneRequest{
				Count: 2, NamePattern: "w{n:02}", Start: 9, Endpoints: []string{"10.77.0.50", "10.77.0.51"}, Set: map[string]string{"A": "1", "B": "x=y"},
				Storage: api.Storage_STORAGE_PRIVATE, Pool: api.PoolUse_POOL_USE_ONLY, KeepGoing: true, Timeout: durationpb.New(30 * time.Second),
			},
		},
		"policy": {
			[]string{"--wake", "on-connect", "--wake-ignore", "192.0.2.0/24", "--hibernate-after", "30s", "--restore-memory", "mapped"},
			&api.CloneRequest{
				Count: 1, HibernateAfter: durationpb.New(30 * time.Second), RestoreMemory: api.RestoreMemory_RESTORE_MEMORY_MAPPED,
				Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_CONNECT, Ignore: []string{"192.0.2.0/24"}},
			},
		},
		"never":     {[]string{"--hibernate-after", "0"}, &api.CloneRequest{Count: 1, HibernateAfter: &durationpb.Duration{}}},
		"names":     {[]string{"--name", "a", "--name", "b", "--pool", "use", "--storage", "shared"}, &api.CloneRequest{Count: 2, Names: []string{"a", "b"}, Storage: api.Storage_STORAGE_SHARED}},
		"endpoints": {[]string{"--endpoint", "10.77.0.50", "--endpoint", "10.77.0.51", "--pool", "never"}, &api.CloneRequest{Count: 2, Endpoints: []string{"10.77.0.50", "10.77.0.51"}, Pool: api.PoolUse_POOL_USE_NEVER}},
	} {
		t.Run(name, func(t *testing.T) {
			b := withTemplate(t)
			qt.Assert(t, qt.Equals(b.Run(t.Context(), append([]string{"clone", "web"}, test.args...)...), session.OK), qt.Commentf("%s", b.Stderr.String()))
			test.want.Template = "web"
			qt.Assert(t, qt.CmpEquals(b.Daemon.LastClone, test.want, protocmp.Transform()))
		})
	}
}

func TestCloneProgress(t *testing.T) {
	b := withTemplate(t)
	b.Terminal = &clitest.Screen{Dims: client.Size{Rows: 24, Columns: 80}}
	qt.Assert(t, qt.Equals(b.Run(t.Context(), "clone", "web", "--count", "2"), session.OK))
	qt.Assert(t, qt.Equals(b.Stderr.String(), "\rweb: 0 of 2 clones, web-1: restore processes\x1b[K\rweb: 1 of 2 clones, web-2: restore processes\x1b[K\r\x1b[K"))

	// A line of output does not go on after a line of progress.
	qt.Assert(t, qt.Equals(b.Run(t.Context(), "clone", "web", "--count", "2", "--keep-going"), session.OK))
	qt.Check(t, qt.Equals(strings.Count(b.Stderr.String(), "\r\x1b[K"), 2))
}

// The rules that the help shows are right.
func TestRulesInHelp(t *testing.T) {
	cmd, _, err := cli.Commands(session.World{}).Find([]string{"template", "validate"})
	qt.Assert(t, qt.IsNil(err))
	long := cmd.Long
	_, example, ok := strings.Cut(long, "all of it optional:\n\n")
	qt.Assert(t, qt.IsTrue(ok))
	example, _, ok = strings.Cut(example, "\n\nTexts")
	qt.Assert(t, qt.IsTrue(ok))
	_, err = template.Parse([]byte(example))
	qt.Assert(t, qt.IsNil(err))
	for _, f := range template.Functions() {
		qt.Check(t, qt.StringContains(long, f))
	}
}
