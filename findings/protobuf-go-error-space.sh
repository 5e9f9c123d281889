#!/usr/bin/env bash
# google.golang.org/protobuf 1.36.12: the text of an error has another space in it in some builds of
# the same program.
#
# Expected: proto.Unmarshal of bytes that are no message says "proto: cannot parse invalid
# wire-format data", so whoever can't get at the error value (it comes from another process, by its
# log or its last words) can look for that text.
# Seen: after "proto:" there is a space in some builds and a no-break space (U+00A0) in others.
# Each build always does the same. Built 16 times with another version string linked in, the
# program had both. So a test of such a text passes, and fails after the next commit.
#
# Why: internal/errors takes one of the two by internal/detrand, a hash of the running program, so
# that nobody relies on the text.
#
# What snapctl does: whether etcd ended because its data is damaged is seen by "proto:" alone
# (vem/directory/member/reason.go); "proto: " was not found in some builds.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
go=$(scripts/deps go)
export CGO_ENABLED=0 GOWORK=off GOFLAGS=-trimpath
mkdir "$tmp/main"
cd "$tmp/main"
cat >main.go <<'G'
package main

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

var version = "none"

func main() {
	err := proto.Unmarshal([]byte("no message"), &emptypb.Empty{})
	if version == "" {
		fmt.Println("no version")
	}
	fmt.Printf("%+q\n", err.Error())
}
G
cat >go.mod <<'G'
module finding

go 1.23

require google.golang.org/protobuf v1.36.12
G
"$go" mod tidy >/dev/null 2>&1
"$go" version
texts=$(for i in {1..16}; do
	"$go" build -ldflags "-X main.version=$i" -o "program$i" .
	for _ in 1 2; do "./program$i"; done | uniq # one line: each build always does the same
done)
want "lines of 16 builds" 16 "$(wc -l <<<"$texts")"
want "texts" '"proto: cannot parse invalid wire-format data"
"proto:\u00a0cannot parse invalid wire-format data"' "$(LC_ALL=C sort -u <<<"$texts")"
