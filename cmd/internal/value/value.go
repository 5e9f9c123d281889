// Package value reads the values of command line flags: sizes, binds,
// publications, address prefixes and words of a fixed set.
//
// A parser takes text and returns a value or an error that says what it wants;
// it touches nothing. [One] and [List] make a flag of a parser.
package value

import (
	"fmt"
	"slices"
	"strings"
)

// Var is a flag's value; it implements pflag.Value.
type Var[T any] struct {
	kind  string
	parse func(string) (T, error)
	set   func(T)
	text  []string
	many  bool
}

// One is a flag that can be given once; if it is given again the last one
// counts. kind names the value in the help.
func One[T any](dst *T, kind string, parse func(string) (T, error)) *Var[T] {
	return &Var[T]{kind: kind, parse: parse, set: func(v T) { *dst = v }}
}

// List is a flag that can be given any number of times.
func List[T any](dst *[]T, kind string, parse func(string) (T, error)) *Var[T] {
	return &Var[T]{kind: kind, parse: parse, set: func(v T) { *dst = append(*dst, v) }, many: true}
}

// Set implements pflag.Value.
func (v *Var[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err != nil {
		return err
	}
	if !v.many {
		v.text = nil
	}
	v.text = append(v.text, text)
	v.set(parsed)
	return nil
}

// String implements pflag.Value.
func (v *Var[T]) String() string { return strings.Join(v.text, ",") }

// Type implements pflag.Value: it names the value in the help.
func (v *Var[T]) Type() string { return v.kind }

// Word returns a parser of one of the given words.
func Word[T ~string](words ...T) func(string) (T, error) {
	return func(text string) (T, error) {
		if i := slices.Index(words, T(text)); i >= 0 {
			return words[i], nil
		}
		all := make([]string, len(words))
		for i, w := range words {
			all[i] = string(w)
		}
		return "", fmt.Errorf("%q is not one of %s", text, strings.Join(all, ", "))
	}
}
