#!/usr/bin/env bash
# github.com/containerd/errdefs v1.0.0 and errdefs/pkg v0.3.0: an error type that has a method Is
# and a method Unwrap is of a kind to IsFailedPrecondition, and of none to errgrpc.ToGRPC.
#
# Expected: both go by the rule of Go's package errors, in which Is and Unwrap are asked in turn.
# Seen: of a type with Is alone the gRPC code is FailedPrecondition. With Unwrap beside it, which
# leads to the cause, the code is Unknown, while IsFailedPrecondition still says true. A client
# can't tell the refusal from a failure.
#
# Why: Resolve (resolve.go, firstError), on which ToGRPC stands, has one type switch, in which
# Unwrap comes before Is: it asks an error's Is only if the error has no Unwrap.
#
# What snapctl does: its refusals have the marker method FailedPrecondition as well
# (runtime/engine/refusal.go), which Resolve asks for first.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
go=$(scripts/deps go)
export GOFLAGS="-modcacherw -trimpath" GOMODCACHE=$tmp/modules CGO_ENABLED=0 GOWORK=off
mkdir "$tmp/main"
cd "$tmp/main"
cat >main.go <<'G'
package main

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"
)

type alone struct{ cause error }

func (e alone) Error() string        { return e.cause.Error() }
func (e alone) Is(target error) bool { return target == errdefs.ErrFailedPrecondition }

type beside struct{ alone }

func (e beside) Unwrap() error { return e.cause }

func main() {
	cause := errors.New("the app is running")
	for _, err := range []error{alone{cause}, beside{alone{cause}}} {
		fmt.Printf("%T %v %v\n", err, errdefs.IsFailedPrecondition(err), status.Code(errgrpc.ToGRPC(err)))
	}
}
G
"$go" mod init finding 2>/dev/null
"$go" get github.com/containerd/errdefs@v1.0.0 github.com/containerd/errdefs/pkg@v0.3.0 2>/dev/null
"$go" mod tidy 2>/dev/null
"$go" run . >out
echo "containerd/errdefs v1.0.0, errdefs/pkg v0.3.0"
want "Is alone" "main.alone true FailedPrecondition" "$(sed -n 1p out)"
want "Is beside Unwrap" "main.beside true Unknown" "$(sed -n 2p out)"
