package template

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrInvalid is rules, a pattern or a map that make no sense.
var ErrInvalid = errors.New("invalid")

// position is a place in a YAML file, counted from 1. The zero value is none.
type position struct {
	line, column int
	block        bool // the lines of a text are those below, as they are ("|")
}

// positions has the place of each value, by its path: "files[0].mode".
type positions map[string]position

// RuleError is one thing that is wrong with rules.
type RuleError struct {
	Line   int    // in the YAML, from 1; 0: unknown
	Column int    // in characters, from 1
	Path   string // of the value: "files[0].mode"; may be empty
	Text   string // what is wrong, and what is allowed
}

// Error says where and what.
func (p RuleError) Error() string {
	text := p.Text
	if p.Path != "" {
		text = p.Path + ": " + text
	}
	if p.Line > 0 {
		text = fmt.Sprintf("line %d, column %d: %s", p.Line, p.Column, text)
	}
	return text
}

// RuleErrors are all that is wrong with rules, in the order of the YAML. They wrap
// [ErrInvalid].
type RuleErrors []RuleError

// Error has a line for each.
func (p RuleErrors) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Is makes all of them [ErrInvalid].
func (p RuleErrors) Is(target error) bool { return target == ErrInvalid }

// finder collects problems.
type finder struct {
	at    positions
	found RuleErrors
}

// bad notes a problem with the value at path. If the value has no place of its
// own, the problem is at what it is part of.
func (f *finder) bad(path, format string, args ...any) {
	pos := f.where(path)
	f.found = append(f.found, RuleError{Line: pos.line, Column: pos.column, Path: path, Text: fmt.Sprintf(format, args...)})
}

// badText notes what is wrong with a text, in the line of it where that is.
func (f *finder) badText(path string, err error) {
	pos := f.where(path)
	p := RuleError{Line: pos.line, Column: pos.column, Path: path, Text: err.Error()}
	if at, ok := err.(*textError); ok && pos.block { //nolint:errorlint // as render and check return it
		p.Line, p.Column, p.Text = pos.line+at.line, 1, at.text
	}
	f.found = append(f.found, p)
}

// where is the place of a value, or of what it is part of.
func (f *finder) where(path string) position {
	for {
		if pos, ok := f.at[path]; ok || path == "" {
			return pos
		}
		path = parent(path)
	}
}

// err is what was found, sorted, or nil.
func (f *finder) err() error {
	if len(f.found) == 0 {
		return nil
	}
	slices.SortStableFunc(f.found, func(a, b RuleError) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		if a.Column != b.Column {
			return a.Column - b.Column
		}
		return strings.Compare(a.Path, b.Path)
	})
	return slices.Compact(f.found) // two rules may say the same of one file
}

// parent is the path of what a value is part of.
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// within tells whether a value is another one, or part of it.
func within(path, whole string) bool {
	rest, ok := strings.CutPrefix(path, whole)
	return ok && (whole == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// join is the path of a field of what is at path.
func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// anyOf lists words for people.
func anyOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
