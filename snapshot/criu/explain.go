package criu

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// sentences are what CRIU says of files that are otherwise than they were
// (criu/files-reg.c, validate_file and open_path), and the same for people. CRIU's
// paths have no slash at the beginning.
var sentences = []struct {
	criu  *regexp.Regexp
	plain string
}{
	{regexp.MustCompile(`File (\S.*) has bad size (\d+) \(expect (\d+)\)`), "file /$1, which a process has open or mapped, has $2 bytes, and had $3 when the app was saved"},
	{regexp.MustCompile(`File (\S.*) has bad mode (0\d+) \(expect (0\d+)\)`), "file /$1, which a process has open or mapped, has mode $2, and had $3 when the app was saved"},
	{regexp.MustCompile(`File (\S.*) has bad build-ID`), "file /$1, which a process has open or mapped, is of another build than when the app was saved"},
	{regexp.MustCompile(`Can't open file (\S.*) on restore: (.*)`), "file /$1, which a process has open or mapped, can't be opened any more: $2"},
	{regexp.MustCompile(`Can't open file (\S.*): (.*)`), "file /$1, which a process has open or mapped, can't be opened any more: $2"},
	{regexp.MustCompile(`Can't get rlimit`), "CRIU may not read the limits of a process"},
}

// Error implements error. It says in plain words what happened; what CRIU says is in
// [Error.Details].
func (e *Error) Error() string {
	var b strings.Builder
	switch e.Op {
	case "dump":
		b.WriteString("CRIU could not save the processes")
	case "restore":
		b.WriteString("CRIU could not make the processes again")
	default:
		fmt.Fprintf(&b, "criu %s", e.Op)
	}
	if cause := e.cause(); cause != "" {
		fmt.Fprintf(&b, ": %s", cause)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// cause is what CRIU says, where there is a plain sentence for it.
func (e *Error) cause() string {
	for _, line := range append([]string{e.Message}, e.Lines...) {
		for _, s := range sentences {
			if at := s.criu.FindStringSubmatchIndex(line); at != nil {
				text := string(s.criu.ExpandString(nil, s.plain, line, at))
				return strings.Replace(text, "file //", "file /", 1)
			}
		}
	}
	return ""
}

// Details are CRIU's own words, one line each: its message, and the errors of its log.
func (e *Error) Details() []string {
	var lines []string
	if e.Message != "" {
		lines = append(lines, e.Message)
	}
	lines = append(lines, e.Lines...)
	if e.Errno != 0 {
		lines = append(lines, fmt.Sprintf("errno %d", e.Errno))
	}
	return lines
}

// Explain is an error for people, and below it, each on a line of its own, what CRIU
// says, if an [Error] was the cause.
func Explain(err error) string {
	var text strings.Builder
	text.WriteString(err.Error())
	if c, ok := errors.AsType[*Error](err); ok {
		for _, line := range c.Details() {
			text.WriteString("\nCRIU: " + line)
		}
	}
	return text.String()
}
