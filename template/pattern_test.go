package template

import (
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot"
)

func TestNamePattern(t *testing.T) {
	for name, test := range map[string]struct {
		pattern      string
		start, count int
		want         []string
	}{
		"plain":      {"web-{n}", 1, 3, []string{"web-1", "web-2", "web-3"}},
		"offset":     {"web-{n}", 9, 2, []string{"web-9", "web-10"}},
		"padded":     {"w{n:03}x", 9, 2, []string{"w009x", "w010x"}},
		"overflow":   {"w{n:01}", 9, 2, []string{"w9", "w10"}},
		"first":      {"{n}", 0, 1, []string{"0"}},
		"no number":  {"web", 5, 1, []string{"web"}},
		"other text": {"a.b_c-{n}.d", 1, 1, []string{"a.b_c-1.d"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParseNamePattern(test.pattern)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(p.String(), test.pattern))
			got, err := p.Expand(test.start, test.count, nil)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.DeepEquals(got, test.want))
		})
	}
}

func TestNamePatternErrors(t *testing.T) {
	for pattern, want := range map[string]string{
		"":               `invalid name pattern "": name "": use up to 63 letters.*`,
		"web-{n}-{n}":    `invalid name pattern "web-{n}-{n}": it has more than one number`,
		"web-{N}":        `invalid name pattern "web-{N}": the number is {n}, or {n:03} to fill it up with zeros to 3 digits`,
		"web-{n:3}":      `.*the number is {n}, or {n:03}.*`,
		"web-{n:00}":     `.*the number is {n}, or {n:03}.*`,
		"web-{n:010}":    `.*the number is {n}, or {n:03}.*`,
		"web-{n":         `.*the number is {n}, or {n:03}.*`,
		"a/{n}":          `invalid name pattern "a/{n}": name "a/1": use up to 63 letters.*`,
		"-{n}":           `.*name "-1": use.*`,
		"{n}" + long(63): `.*name "1a{63}": use.*`,
	} {
		_, err := ParseNamePattern(pattern)
		qt.Check(t, qt.ErrorMatches(err, want), qt.Commentf("%s", pattern))
		qt.Check(t, qt.ErrorIs(err, ErrInvalid))
	}
}

func long(n int) string { return strings.Repeat("a", n) }

func TestExpandErrors(t *testing.T) {
	for name, test := range map[string]struct {
		pattern      string
		start, count int
		want         string
	}{
		"none":          {"web-{n}", 1, 0, `.*no name for 0 clones`},
		"negative":      {"web-{n}", -1, 1, `.*numbers from -1 on: want 0 to 1000000`},
		"too high":      {"web-{n}", MaxNumber, 1, `.*numbers from 1000000 on.*`},
		"overflow":      {"web-{n}", 1, int(^uint(0) >> 1), `.*numbers from 1 on.*`},
		"same":          {"web", 1, 2, `invalid name pattern "web": 2 clones would have the same name: put {n} where their number goes`},
		"taken":         {"web-{n}", 1, 3, `invalid name pattern "web-{n}": web-2 exists already: choose another pattern, or a number to start from`},
		"grows too far": {long(62) + "{n}", 9, 2, `.*name "a{62}10": use up to 63.*`},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParseNamePattern(test.pattern)
			qt.Assert(t, qt.IsNil(err))
			_, err = p.Expand(test.start, test.count, func(name string) bool { return name == "web-2" })
			qt.Check(t, qt.ErrorMatches(err, test.want))
			qt.Check(t, qt.ErrorIs(err, ErrInvalid))
		})
	}
	_, err := NamePattern{}.Expand(1, 1, nil)
	qt.Check(t, qt.ErrorMatches(err, `.*name "": use.*`))
}

func TestNext(t *testing.T) {
	p, err := ParseNamePattern("web-{n:02}")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(p.Next(nil), 1))
	qt.Check(t, qt.Equals(p.Next([]string{"web-03", "web-1", "web-007", "db-09", "web-", "web-x"}), 4))
	qt.Check(t, qt.Equals(p.Next([]string{"web-00"}), 1))
	_, ok := NamePattern{before: "web"}.Number("web")
	qt.Check(t, qt.IsFalse(ok))
}

func FuzzNamePattern(f *testing.F) {
	for _, p := range []string{"web-{n}", "{n:03}", "web", "{n:9}x{", "{n}{n}", "1{n}2"} {
		f.Add(p, 1)
	}
	f.Fuzz(func(t *testing.T, text string, start int) {
		p, err := ParseNamePattern(text)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, ErrInvalid))
			return
		}
		qt.Assert(t, qt.Equals(p.String(), text))
		names, err := p.Expand(start, 2, nil)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, ErrInvalid))
			return
		}
		qt.Assert(t, qt.Not(qt.Equals(names[0], names[1])))
		for i, name := range names {
			qt.Assert(t, qt.IsNil(snapshot.ValidateName(name)))
			n, ok := p.Number(name)
			qt.Assert(t, qt.IsTrue(ok))
			qt.Assert(t, qt.Equals(n, start+i))
		}
		qt.Assert(t, qt.Equals(p.Next(names), start+2))
	})
}
