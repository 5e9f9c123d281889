package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// connect dials the daemon. The caller closes the client.
func (s *session) connect(ctx context.Context) (*client.Client, error) {
	return s.world.Dial(ctx, s.address())
}

// address is where the daemon listens.
func (s *session) address() string {
	if s.socket != "" {
		return s.socket
	}
	if fromEnv, ok := s.world.Env(SocketVariable); ok && fromEnv != "" {
		return fromEnv
	}
	return client.DefaultSocket
}

// request is what a command asks the daemon.
type request func(ctx context.Context, c *client.Client, args []string) error

// call makes a command of a request. The timeout covers all of it.
func (s *session) call(do request) func(*cobra.Command, []string) error {
	return s.dialled(func(ctx context.Context, c *client.Client, args []string) error {
		ctx, cancel := s.limit(ctx, 0)
		defer cancel()
		return do(ctx, c, args)
	})
}

// dialled makes a command of a request that sees to its timeouts itself.
func (s *session) dialled(do request) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		c, err := s.connect(cmd.Context())
		if err != nil {
			return err
		}
		defer func() {
			// A failure to close changes nothing about what the daemon did.
			_ = c.Close()
		}()
		return do(cmd.Context(), c, args)
	}
}

// limit applies --timeout, and slack on top of it.
func (s *session) limit(ctx context.Context, slack time.Duration) (context.Context, context.CancelFunc) {
	if s.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.timeout+slack)
}

// print writes a result.
func (s *session) print(doc output.Document) error {
	return output.Write(s.world.Out, s.format, s.world.Now(), doc)
}

// grace is how much longer than the timeout it tells the daemon snapctl waits:
// the daemon undoes what it has begun, and its error says more.
const grace = 10 * time.Second

// operation does something to one app or snapshot.
type operation func(ctx context.Context, c *client.Client, name string, tell client.Progress) (*api.Result, error)

// operate does the same to each of names, one after the other, and prints what
// it did. One that fails does not keep it from the others.
func (s *session) operate(op output.Operation, do operation) func(*cobra.Command, []string) error {
	return s.dialled(func(ctx context.Context, c *client.Client, names []string) error {
		var results []output.Result
		var failed []output.Failure
		var errs failures
		for _, name := range names {
			r, err := s.operateOn(ctx, c, name, op, do)
			if err != nil {
				if len(names) > 1 {
					err = named(name, err)
				}
				errs = append(errs, err)
				failed = append(failed, output.NewFailure(name, int(codeOf(err)), err))
				if ctx.Err() != nil {
					break
				}
				continue
			}
			results = append(results, *r)
			s.note(r)
			if !r.Complete {
				errs = append(errs, partly(r))
			}
			if s.format == output.AsTable { // each as soon as it is done
				if err := s.print(output.NewResults([]output.Result{*r}, nil)); err != nil {
					return err
				}
			}
		}
		if s.format != output.AsTable {
			if err := s.print(output.NewResults(results, failed)); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(errs) > 0 {
			return errs
		}
		return nil
	})
}

// partly is an operation that was done, but not to all of the app's sockets.
func partly(r *output.Result) error {
	if r.Operation == output.Hibernate {
		return &exitError{Partly, fmt.Sprintf("%s is hibernated, but not all of its sockets are held", r.AppName())}
	}
	return &exitError{Partly, fmt.Sprintf("%s runs, but not all of its sockets came back", r.AppName())}
}

// note says on standard error what of the app is not as it was. JSON has it, too.
func (s *session) note(r *output.Result) {
	if s.format != output.AsTable {
		return
	}
	for _, n := range r.Notes {
		if text := n.String(); !slices.Contains(s.said, text) { // a crowd of clones shares them
			s.say("note", text)
			s.said = append(s.said, text)
		}
	}
}

func (s *session) operateOn(ctx context.Context, c *client.Client, name string, op output.Operation, do operation) (*output.Result, error) {
	ctx, cancel := s.limit(ctx, grace)
	defer cancel()
	line := s.progress(name)
	defer line.clear()
	r, err := do(ctx, c, name, line.tell)
	if err != nil {
		return nil, err
	}
	res := output.NewResult(op, name, r)
	return &res, nil
}

// named says which app or snapshot an error is about, if it does not itself.
func named(name string, err error) error {
	var answer *client.Error
	if errors.As(err, &answer) && mentions(answer.Message, name) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// patience is the timeout as the API wants it.
func (s *session) patience() *durationpb.Duration {
	if s.timeout == 0 {
		return nil
	}
	return durationpb.New(s.timeout)
}
