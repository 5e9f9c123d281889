package clones

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
)

// cloneError is why there is no clone of a name.
type cloneError struct {
	name string
	err  error
}

func (e *cloneError) Error() string { return e.err.Error() }
func (e *cloneError) Unwrap() error { return e.err }

// reason is the error without the name that it begins with.
func (e *cloneError) reason() string {
	text := strings.TrimPrefix(e.Error(), "clone ")
	return strings.TrimPrefix(text, e.name+": ")
}

// sameError is an error of several clones.
type sameError struct {
	names []string
	first *cloneError
}

func (e *sameError) Unwrap() error { return e.first }

func (e *sameError) Error() string {
	const most = 5
	names := strings.Join(e.names, ", ")
	if len(e.names) > most+1 {
		names = fmt.Sprintf("%s and %d others", strings.Join(e.names[:most], ", "), len(e.names)-most)
	}
	return names + ": " + e.first.reason()
}

// together makes one error of those that clones have for the same reason.
func together(errs session.JoinedErrors) session.JoinedErrors {
	var all session.JoinedErrors
	same := make(map[string]*sameError)
	for _, err := range errs {
		one, ok := err.(*cloneError) //nolint:errorlint // not one with advice
		if !ok {
			all = append(all, err)
			continue
		}
		if s := same[one.reason()]; s != nil {
			s.names = append(s.names, one.name)
			continue
		}
		s := &sameError{names: []string{one.name}, first: one}
		same[one.reason()] = s
		all = append(all, s)
	}
	for i, err := range all {
		if s, ok := err.(*sameError); ok && len(s.names) == 1 { //nolint:errorlint // made above
			all[i] = s.first
		}
	}
	return all
}

// undone adds the error with which the clones were undone to those of the
// clones, unless it is one of them.
func undone(total int32, errs session.JoinedErrors, err error) session.JoinedErrors {
	for i, e := range errs {
		if strings.HasSuffix(e.Error(), err.Error()) {
			if total > 1 {
				errs[i] = &session.AdviceError{Err: e, Advice: []string{"all clones were undone: with --keep-going those stay that can be made"}}
			}
			return errs
		}
	}
	return append(errs, err)
}

// keptHints are for a request to keep going whose end is not known: the answer is not
// to be waited for.
func keptHints(err error) []string {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errdefs.IsUnavailable(err) {
		return []string{"clones that were ready stay, also those that are not listed here: `snapctl ps`"}
	}
	return nil
}
