package control

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/snapctl/snapctl/vem/control/message"
)

// UnreachableError is a host that did not answer: no address of it could be reached, or the
// answer did not come in time. In the latter case nobody knows whether it did what it was asked
// for: whoever asks again uses the same [message.ID].
type UnreachableError struct {
	Host  string
	Tried []Attempt // in their order; none: no address of the host is known
	// Err is why the last connection was lost, or [context.DeadlineExceeded]; nil: there was no
	// connection.
	Err error
}

// Attempt is an address that was tried in vain.
type Attempt struct {
	Address Address
	Err     error
}

func (e *UnreachableError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "host %s can't be reached", e.Host)
	switch {
	case errors.Is(e.Err, context.DeadlineExceeded):
		b.WriteString(": no answer in time")
	case e.Err != nil:
		fmt.Fprintf(&b, ": %v", e.Err)
	case len(e.Tried) == 0:
		b.WriteString(": no address of it is known")
	}
	for i, a := range e.Tried {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%v: %v", sep, a.Address, a.Err)
	}
	return b.String()
}

// Unwrap returns all reasons.
func (e *UnreachableError) Unwrap() []error {
	var all []error
	if e.Err != nil {
		all = append(all, e.Err)
	}
	for _, a := range e.Tried {
		all = append(all, a.Err)
	}
	return all
}

// Undone tells whether an error of a call of [Peers] means that the other host has done nothing. Of
// any other one nobody knows.
func Undone(err error) bool {
	_, refused := errors.AsType[*message.RefusedError](err)
	_, elsewhere := errors.AsType[*message.NotOwnerError](err)
	unreachable, ok := errors.AsType[*UnreachableError](err)
	return refused || elsewhere || ok && unreachable.Err == nil
}

// Remedy says what to do; "" if the error says so itself.
func (e *UnreachableError) Remedy() string {
	for _, why := range e.Unwrap() {
		var known interface{ Remedy() string } // what Explain has made of an error of TLS, say
		if errors.As(why, &known) {
			return known.Remedy()
		}
	}
	var expired x509.CertificateInvalidError
	text := e.Error()
	switch {
	case len(e.Tried) == 0 && e.Err == nil:
		return "wait until the directory tells an address of " + e.Host
	case errors.As(e, &expired) && expired.Reason == x509.Expired, strings.Contains(text, "expired certificate"):
		return "compare the clocks of both hosts; if they are right, the host whose certificate has expired has to join again"
	case strings.Contains(text, "tls: "), strings.Contains(text, "x509: "):
		return "both hosts have to be of one installation: look at snapctl host ls, and join again with a new token if need be"
	case errors.Is(e, syscall.ECONNREFUSED):
		return "start snapctld on " + e.Host
	default:
		return fmt.Sprintf("look whether %s runs, and whether TCP port %d is open between both hosts", e.Host, DefaultPort)
	}
}
