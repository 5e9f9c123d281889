package output

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"":                   "",
		"plain ünïcode":      "plain ünïcode",
		"\x1b[31mred\x1b[0m": `\x1b[31mred\x1b[0m`,
		"a\nb\tc":            `a\nb\tc`,
		"\u202egnp.exe":      `\u202egnp.exe`, // right-to-left override
		"a\xffb":             "a�b",
	} {
		qt.Check(t, qt.Equals(Clean(text), want))
	}
}

func TestByNumber(t *testing.T) {
	names := []string{"a", "cache", "web", "web-1", "web-2", "web-2b", "web-10", "web-010", "web-1000000000000000000000", "web-x", "web2"}
	for seed := range uint64(20) {
		got := slices.Clone(names)
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortFunc(got, byNumber)
		qt.Assert(t, qt.DeepEquals(got, names))
	}
	qt.Assert(t, qt.Equals(byNumber("web-1", "web-1"), 0))
}

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 100 << 10: "100 KiB",
		1023 << 10: "1.0 MiB", 13 << 20: "13.0 MiB", 3 << 29: "1.5 GiB", 1 << 62: "4.0 EiB",
	} {
		qt.Check(t, qt.Equals(Size(bytes), want))
	}
}

func TestTook(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 ms", 400 * time.Microsecond: "0.4 ms", 64200 * time.Microsecond: "64 ms", 999_600 * time.Microsecond: "1.00 s",
		1240 * time.Millisecond: "1.24 s", 90 * time.Second: "1m30s",
	} {
		qt.Check(t, qt.Equals(Took(d), want))
	}
}

func TestAge(t *testing.T) {
	table := &Table{now: at}
	for d, want := range map[time.Duration]string{
		-time.Hour: "0 s", 0: "0 s", 59 * time.Second: "59 s", 2 * time.Minute: "2 min", 47 * time.Hour: "47 h", 49 * time.Hour: "2 d",
	} {
		qt.Check(t, qt.Equals(table.age(at.Add(-d)), want))
	}
	qt.Check(t, qt.Equals(table.age(time.Time{}), ""))
}

func TestCommand(t *testing.T) {
	qt.Check(t, qt.Equals(Command([]string{"sh", "-c", "echo 'a' $b", ""}), `sh -c 'echo '\''a'\'' $b' ''`))
	qt.Check(t, qt.Equals(shorten("abcdef", 4), "abc…"))
	qt.Check(t, qt.Equals(shorten("abcd", 4), "abcd"))
}

// Words that the API gains later must not end the program.
func TestUnknownWords(t *testing.T) {
	a := NewApp(&api.App{Status: 99, Wake: &api.WakePolicy{Mode: 99}})
	qt.Check(t, qt.Equals(a.Status, "unknown"))
	qt.Check(t, qt.Equals(a.Wake.Mode, "unknown"))
}

func TestManyLostSockets(t *testing.T) {
	r := &api.Result{App: stoppedApp()}
	for range 25 {
		r.Sockets = append(r.Sockets,
			&api.SocketOutcome{Socket: "tcp", Outcome: "reset", Reason: "it belongs to app web"},
			&api.SocketOutcome{Socket: "udp", Outcome: "held"})
	}
	r.Sockets = append(r.Sockets, &api.SocketOutcome{Socket: "tcp", Outcome: "reset"})
	var b strings.Builder
	qt.Assert(t, qt.IsNil(Write(&b, AsTable, at, NewResults([]Result{NewResult(Restore, "web-1", r)}, nil))))
	_, list, _ := strings.Cut(b.String(), "\n")
	qt.Check(t, qt.Equals(list, "  25 sockets reset: it belongs to app web\n"+strings.Repeat("    tcp\n", maxShown)+
		"    and 15 more, see --output json\n  1 socket reset\n    and 1 more, see --output json\n"))
}

type noWriter struct{}

func (noWriter) Write([]byte) (int, error) { return 0, errors.New("no luck") }

func TestWriteError(t *testing.T) {
	qt.Assert(t, qt.ErrorMatches(Write(noWriter{}, AsJSON, at, NewAppList(nil)), "write output: no luck"))
}

// What an app calls itself can't reach the terminal as an escape sequence.
func TestTablesAreClean(t *testing.T) {
	for name, doc := range examples(t) {
		var b strings.Builder
		qt.Assert(t, qt.IsNil(Write(&b, AsTable, at, doc)))
		for line := range strings.Lines(b.String()) {
			qt.Check(t, qt.Equals(Clean(strings.TrimSuffix(line, "\n")), strings.TrimSuffix(line, "\n")), qt.Commentf("%s", name))
			qt.Check(t, qt.IsFalse(strings.HasSuffix(line, " \n")), qt.Commentf("%s: %q", name, line))
		}
	}
	var b strings.Builder
	qt.Assert(t, qt.IsNil(Write(&b, AsTable, at, NewAppList([]*api.App{{Name: "a", Args: []string{"\x1b[2J"}}}))))
	qt.Check(t, qt.IsFalse(strings.Contains(b.String(), "\x1b")))
}
