package template

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/snapctl/snapctl/snapshot"
)

// NamePattern makes the names of clones: "web-{n}" is web-1, web-2, ..., and
// "web-{n:03}" is web-001, web-002, ... The zero value makes none.
type NamePattern struct {
	before, after string
	width         int // of the number, filled up with zeros
	numbered      bool
}

// placeholder is where the number goes.
var placeholder = regexp.MustCompile(`\{n(?::0([1-9]))?\}`)

// ParseNamePattern reads a pattern. One without a number is a name, for one
// clone. Returns an error wrapping ErrInvalid.
func ParseNamePattern(text string) (NamePattern, error) {
	bad := func(reason string) (NamePattern, error) {
		return NamePattern{}, fmt.Errorf("%w name pattern %q: %s", ErrInvalid, text, reason)
	}
	p := NamePattern{before: text}
	switch found := placeholder.FindAllStringSubmatchIndex(text, -1); {
	case len(found) > 1:
		return bad("it has more than one number")
	case len(found) == 1:
		at := found[0]
		p = NamePattern{before: text[:at[0]], after: text[at[1]:], numbered: true}
		if at[2] >= 0 {
			p.width, _ = strconv.Atoi(text[at[2]:at[3]]) // one digit
		}
	}
	if strings.ContainsAny(p.before+p.after, "{}") {
		return bad("the number is {n}, or {n:03} to fill it up with zeros to 3 digits")
	}
	if err := snapshot.ValidateName(p.Name(1)); err != nil {
		return bad(err.Error())
	}
	return p, nil
}

// Numbered tells whether it can make more than one name.
func (p NamePattern) Numbered() bool { return p.numbered }

// String is what [ParseNamePattern] reads.
func (p NamePattern) String() string {
	switch {
	case !p.numbered:
		return p.before
	case p.width > 0:
		return fmt.Sprintf("%s{n:0%d}%s", p.before, p.width, p.after)
	default:
		return p.before + "{n}" + p.after
	}
}

// Name is the name with a number.
func (p NamePattern) Name(n int) string {
	if !p.numbered {
		return p.before
	}
	return fmt.Sprintf("%s%0*d%s", p.before, p.width, n, p.after)
}

// Number is the number in a name that the pattern made.
func (p NamePattern) Number(name string) (n int, ok bool) {
	rest, ok := strings.CutPrefix(name, p.before)
	if !ok || !p.numbered {
		return 0, false
	}
	digits, ok := strings.CutSuffix(rest, p.after)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && p.Name(n) == name
}

// Next is the number after the highest one of names that the pattern made, from
// 1.
func (p NamePattern) Next(names []string) int {
	next := 1
	for _, name := range names {
		if n, ok := p.Number(name); ok && n >= next {
			next = n + 1
		}
	}
	return next
}

// Expand makes the names for count clones, numbered from start. taken tells
// which there are already; it may be nil. Returns an error wrapping ErrInvalid
// that names the first that can't be.
func (p NamePattern) Expand(start, count int, taken func(name string) bool) ([]string, error) {
	bad := func(format string, args ...any) ([]string, error) {
		return nil, fmt.Errorf("%w name pattern %q: %s", ErrInvalid, p, fmt.Sprintf(format, args...))
	}
	switch {
	case count < 1:
		return bad("no name for %d clones", count)
	case start < 0 || start > MaxNumber-count:
		return bad("numbers from %d on: want 0 to %d", start, MaxNumber)
	case count > 1 && !p.numbered:
		return bad("%d clones would have the same name: put {n} where their number goes", count)
	}
	names := make([]string, count)
	for i := range names {
		names[i] = p.Name(start + i)
		if err := snapshot.ValidateName(names[i]); err != nil {
			return bad("%v", err)
		}
		if taken != nil && taken(names[i]) {
			return bad("%s exists already: choose another pattern, or a number to start from", names[i])
		}
	}
	return names, nil
}

// MaxNumber is the highest number of a clone.
const MaxNumber = 1_000_000
