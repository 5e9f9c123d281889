#!/usr/bin/env bash
# Go 1.26, package fmt: what a pointer in a struct points to is printed by a verb that does not fit
# it, and by no verb that does.
#
# Expected: below the top level a pointer prints as its address ("for compound objects ...,
# &{}, &[], &map[] at the top level", package fmt), so a struct with a pointer to a secret in it
# can be logged without the secret, whatever verb somebody wrote.
# Seen: with %v, %+v, %x and %d it is the address. With %s, %q, %c, %U and %t, which do not fit a
# pointer, the message about the bad verb prints the value as if it were at the top level: all
# bytes of the array that the pointer leads to.
#
# Why: src/fmt/print.go, badVerb, prints its argument with printValue at depth 0.
#
# What snapctl does: the secret of an invitation is behind a function (vem/trust/token.go), of
# which fmt prints an address with every verb.
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
	"strings"
)

type pointer struct{ p *[4]byte }

type function struct{ f func() [4]byte }

func main() {
	b := [4]byte{77, 78, 79, 80}
	for _, verb := range strings.Fields("%v %+v %x %d %s %q %c %U %t") {
		shows := func(v any) bool {
			text := fmt.Sprintf(verb, v)
			return strings.Contains(text, "77 78 79 80") || strings.Contains(text, "M N O P") || strings.Contains(text, "'M' 'N'") || strings.Contains(text, "U+004D")
		}
		fmt.Println(verb, "pointer", shows(pointer{&b}), "function", shows(function{func() [4]byte { return b }}))
	}
}
G
cat >go.mod <<'G'
module finding

go 1.23
G
"$go" version
want "is the content printed" "%v pointer false function false
%+v pointer false function false
%x pointer false function false
%d pointer false function false
%s pointer true function false
%q pointer true function false
%c pointer true function false
%U pointer true function false
%t pointer true function false" "$("$go" run .)"
