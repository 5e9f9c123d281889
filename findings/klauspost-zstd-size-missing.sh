#!/usr/bin/env bash
# github.com/klauspost/compress v1.20.1: zstd.Encoder.EncodeAll does not write the size of the content into the
# frame if it is less than 256 bytes.
#
# Expected: as with the zstd library, whose one-shot compression has all of the content before it begins, each frame
# says how large its content is (Frame_Content_Size, RFC 8878, 3.1.1.1.4), so that who gets it can refuse what would
# be too large.
# Seen: zstd.Header says HasFCS false of what EncodeAll made of 1 and of 255 bytes, and true of 256 and more. With
# WithSingleSegment(true) it is true of all. Debian's zstd 1.5.4 has it of 255 bytes of a file.
#
# Why: the format has room for sizes below 256 in single-segment frames only, and EncodeAll makes such frames only if
# it is told to (zstd/frameenc.go, appendTo; zstd/encoder.go, encodeAll).
#
# What snapctl does: runtime/cargo does not compress what is shorter than 512 bytes.
# shellcheck source=findings/finding.bash
. "$(dirname "$0")/finding.bash"
go=$(scripts/deps go)
export GOFLAGS="-modcacherw -trimpath" GOMODCACHE=$tmp/modules CGO_ENABLED=0 GOWORK=off
mkdir "$tmp/main"
cd "$tmp/main"
cat >main.go <<'G'
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/klauspost/compress/zstd"
)

func has(frame []byte) bool {
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		panic(err)
	}
	return h.HasFCS
}

func main() {
	if len(os.Args) > 1 {
		frame, err := os.ReadFile(os.Args[1])
		if err != nil {
			panic(err)
		}
		fmt.Println(has(frame))
		return
	}
	for _, single := range []bool{false, true} {
		options := []zstd.EOption{}
		if single {
			options = append(options, zstd.WithSingleSegment(true))
		}
		e, err := zstd.NewWriter(nil, options...)
		if err != nil {
			panic(err)
		}
		for _, n := range []int{1, 255, 256, 70000} {
			fmt.Print(n, " ", has(e.EncodeAll(bytes.Repeat([]byte{'a'}, n), nil)), "; ")
		}
		fmt.Println()
	}
}
G
"$go" mod init finding 2>/dev/null
"$go" get github.com/klauspost/compress@v1.20.1 2>/dev/null
"$go" mod tidy 2>/dev/null
"$go" run . >out
echo "klauspost/compress v1.20.1"
want "EncodeAll" "1 false; 255 false; 256 true; 70000 true; " "$(sed -n 1p out)"
want "EncodeAll with a single segment" "1 true; 255 true; 256 true; 70000 true; " "$(sed -n 2p out)"
if command -v zstd >/dev/null; then
	head -c 255 /dev/zero >content
	zstd -q content
	want "the zstd program" "true" "$("$go" run . content.zst)"
fi
