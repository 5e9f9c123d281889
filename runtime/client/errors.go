package client

import (
	"context"
	"errors"
	"io"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// hintKey is the trailer in which the daemon sends hints.
const hintKey = "snapctl-hint"

// Error is how a request failed.
//
// It wraps one of the sentinels of github.com/containerd/errdefs, or
// [context.Canceled] or [context.DeadlineExceeded].
type Error struct {
	// Message is the daemon's, or gRPC's if the daemon could not answer.
	Message string

	hints []string
	class error
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap gives the sentinel.
func (e *Error) Unwrap() error { return e.class }

// Hints are what the user can do about it; may be empty.
func (e *Error) Hints() []string { return e.hints }

// Hints returns what the user can do about err: what every error in its tree
// says that has a method Hints, outermost first.
func Hints(err error) []string {
	if err == nil {
		return nil
	}
	var all []string
	if h, ok := err.(interface{ Hints() []string }); ok {
		all = append(all, h.Hints()...)
	}
	switch w := err.(type) { //nolint:errorlint // the tree is walked here
	case interface{ Unwrap() error }:
		all = append(all, Hints(w.Unwrap())...)
	case interface{ Unwrap() []error }:
		for _, e := range w.Unwrap() {
			all = append(all, Hints(e)...)
		}
	}
	return all
}

// fromGRPC turns what gRPC returned into an [*Error].
func fromGRPC(err error, trailer metadata.MD) error {
	var done *Error
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &done) {
		return err
	}
	// The class comes from errgrpc, the text does not: of an error with several
	// parts errgrpc repeats all but the first.
	return &Error{
		Message: status.Convert(err).Message(),
		hints:   trailer.Get(hintKey),
		class:   errgrpc.ToNative(err),
	}
}

func unaryErrors(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var trailer metadata.MD
	err := invoke(ctx, method, req, reply, conn, append(opts, grpc.Trailer(&trailer))...)
	return fromGRPC(err, trailer)
}

func streamErrors(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, fromGRPC(err, nil)
	}
	return errorStream{s}, nil
}

// errorStream turns the errors of a stream. An [io.EOF] stays one.
type errorStream struct{ grpc.ClientStream }

func (s errorStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		return nil
	}
	return fromGRPC(err, s.Trailer()) // a trailer may be asked for once RecvMsg has failed
}

func (s errorStream) SendMsg(m any) error { return fromGRPC(s.ClientStream.SendMsg(m), nil) }
