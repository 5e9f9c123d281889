// Package afar has requests done by other hosts of the installation. It stands before the service of this host,
// which answers what this host is to do itself, and asks the services of other hosts as another host's client.
// It is a part of the server that has a package of its own.
package afar

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/courier"
)

// Options are what the service works with. All are required.
type Options struct {
	Hosts   Hosts
	Courier Courier
	// Status is the gRPC status of an error of this host, and Hint what can be done about it; "": nothing is known.
	Status func(error) error
	Hint   func(error) string
}

// Hosts are the hosts of the installation.
type Hosts interface {
	// Self is the name of this host; empty if it is in no installation.
	Self() string
	// Dial connects to the service of a host, which may be this one, as another host does. ctx bounds the life of the
	// connection. The caller closes it.
	Dial(ctx context.Context, host string) (*grpc.ClientConn, error)
}

// Courier has other hosts have snapshots, as package courier does it.
type Courier interface {
	Bring(ctx context.Context, r courier.Request) (*courier.Guest, error)
}

// Service answers requests.
type Service struct {
	api.SnapctlServer // of this host

	opt Options
}

// New returns a service that has other hosts do what they are to do, and this host's service all else.
func New(here api.SnapctlServer, opt Options) *Service { return &Service{here, opt} }

// asked are the requests that a host does for any other one of the installation.
func asked() []string {
	return []string{
		api.Snapctl_Restore_FullMethodName, api.Snapctl_Clone_FullMethodName, api.Snapctl_PushTemplate_FullMethodName,
		api.Snapctl_ShowTemplate_FullMethodName, api.Snapctl_ShowFacts_FullMethodName,
	}
}

// making are those of them that make apps, which a host does not that is cordoned.
func making() []string {
	return []string{api.Snapctl_Restore_FullMethodName, api.Snapctl_Clone_FullMethodName}
}

// ForHosts are the options of a server that answers other hosts: they may make the requests for which they are
// there, and no others. Each is logged. takesApps returns why this host takes no apps of other hosts, nil if it does.
func ForHosts(log *slog.Logger, takesApps func(context.Context) error) []grpc.ServerOption {
	may := func(ctx context.Context, method string) error {
		from := ""
		if p, ok := peer.FromContext(ctx); ok {
			from = p.Addr.String()
		}
		if !slices.Contains(asked(), method) {
			log.WarnContext(ctx, "another host makes a request that it may not make", slog.String("host", from), slog.String("request", method))
			return status.Errorf(codes.PermissionDenied, "hosts may not ask for %s", method)
		}
		log.InfoContext(ctx, "another host makes a request", slog.String("host", from), slog.String("request", method))
		if slices.Contains(making(), method) {
			return takesApps(ctx)
		}
		return nil
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if err := may(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return handle(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if err := may(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return handle(srv, stream)
		}),
	}
}

// elsewhere tells whether a host is another one.
func (s *Service) elsewhere(host string) bool { return host != "" && host != s.opt.Hosts.Self() }

// hintTrailer is what the server has a hint in.
const hintTrailer = "snapctl-hint"

// Error is what another host has answered.
type Error struct {
	Host   string
	Status *status.Status
	Hints  []string
}

func (e *Error) Error() string { return fmt.Sprintf("host %s: %s", e.Host, e.Status.Message()) }

// GRPCStatus has the error keep its code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Status.Code(), e.Error()) }

// answered is an error of another host's service; nil if there is none.
func answered(host string, err error, trailer metadata.MD) error {
	if err == nil {
		return nil
	}
	e := &Error{Host: host, Status: status.Convert(err), Hints: trailer.Get(hintTrailer)}
	if e.Status.Code() == codes.Unavailable && len(e.Hints) == 0 {
		e.Hints = []string{"whether it is done there is not known: look on host " + host}
	}
	return e
}

// hinting gives the client the hints of an error.
func hinting(stream grpc.ServerStream, err error) error {
	if e, ok := err.(*Error); ok { //nolint:errorlint // as it was made
		for _, h := range e.Hints {
			stream.SetTrailer(metadata.Pairs(hintTrailer, h))
		}
	}
	return err
}

// patience is a request's timeout. This host goes by it until another one does, which has the rest of it: it
// undoes what it has begun, and says more.
type patience struct {
	until time.Time // zero: there is none
	timer *time.Timer
	end   func()
}

func begin(ctx context.Context, d *durationpb.Duration) (context.Context, *patience) {
	ctx, cancel := context.WithCancel(ctx)
	p := &patience{end: cancel}
	if t := d.AsDuration(); t > 0 {
		p.until, p.timer = time.Now().Add(t), time.AfterFunc(t, cancel)
	}
	return ctx, p
}

// why is an error with the reason that there was no time.
func (p *patience) why(err error) error {
	if !p.until.IsZero() && !time.Now().Before(p.until) {
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	return err
}

// rest ends that this host goes by the timeout, and returns what is left of it; nil if there is none.
func (p *patience) rest() *durationpb.Duration {
	if p.until.IsZero() {
		return nil
	}
	p.timer.Stop()
	return durationpb.New(max(time.Millisecond, time.Until(p.until)))
}
