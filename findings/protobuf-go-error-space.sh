#!/usr/bin/env bash
# google.golang.org/protobuf 1.36.12: the text of an error has another space in it in some programs.
#
# Expected: proto.Unmarshal of bytes that are no message says "proto: cannot parse invalid
# wire-format data", so whoever can't get at the error value (it comes from another process, by its
# log or its last words) can look for that text.
# Seen: after "proto:" there is a space in some programs and a no-break space (U+00A0) in others.
# The same program always does the same, but 16 copies of it, with some zeros appended to the file,
# had both. So a test of such a text passes, and fails after the next commit.
#
# Why: internal/errors takes one of the two by internal/detrand, a hash of the size of the running
# program's file and of eight pieces of it, so that nobody relies on the text.
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

func main() {
	err := proto.Unmarshal([]byte("no message"), &emptypb.Empty{})
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
"$go" build -o program .
texts=$(for _ in {1..16}; do
	head -c 64 /dev/zero >>program
	for _ in 1 2; do ./program; done | uniq # one line: the same program always does the same
done)
want "lines of 16 programs" 16 "$(wc -l <<<"$texts")"
want "texts" '"proto: cannot parse invalid wire-format data"
"proto:\u00a0cannot parse invalid wire-format data"' "$(LC_ALL=C sort -u <<<"$texts")"
