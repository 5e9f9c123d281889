package collect

import (
	"testing"

	"github.com/go-quicktest/qt"
)

func TestOutsideUnix(t *testing.T) {
	tests := map[string]struct {
		nodes map[uint64]unixNode
		paths []string
		want  map[uint64]bool
	}{
		"pair within": {
			nodes: map[uint64]unixNode{1: {peer: 2}, 2: {peer: 1}},
			want:  map[uint64]bool{},
		},
		"peer outside": {
			nodes: map[uint64]unixNode{1: {peer: 9}, 2: {peer: 3}, 3: {peer: 2}},
			want:  map[uint64]bool{1: true},
		},
		"unbound, unconnected": {
			nodes: map[uint64]unixNode{1: {}},
			want:  map[uint64]bool{},
		},
		"own listener": {
			nodes: map[uint64]unixNode{1: {path: "/run/a", listening: true}, 2: {path: "/run/a", peer: 3}, 3: {peer: 2}},
			want:  map[uint64]bool{},
		},
		"listener with an outside client accepted": {
			nodes: map[uint64]unixNode{1: {path: "/run/a", listening: true}, 2: {path: "/run/a", peer: 9}},
			want:  map[uint64]bool{1: true, 2: true},
		},
		"listener with an outside client waiting": {
			nodes: map[uint64]unixNode{1: {path: "/run/a", listening: true, pending: []uint32{9}}},
			want:  map[uint64]bool{1: true},
		},
		"listener with a dead client waiting": {
			nodes: map[uint64]unixNode{1: {path: "/run/a", listening: true, pending: []uint32{0}}},
			want:  map[uint64]bool{},
		},
		"listener below a host path, with an own client waiting": {
			nodes: map[uint64]unixNode{1: {path: "/host/a/b", listening: true, pending: []uint32{2}}, 2: {}},
			paths: []string{"/host/a"},
			want:  map[uint64]bool{1: true, 2: true},
		},
		"not quite below": {
			nodes: map[uint64]unixNode{1: {path: "/host/ab", listening: true}, 2: {path: "host/a/b"}, 3: {path: "@/host/a/b"}},
			paths: []string{"/host/a/"},
			want:  map[uint64]bool{},
		},
		"whole root": {
			nodes: map[uint64]unixNode{1: {path: "/a"}},
			paths: []string{"/"},
			want:  map[uint64]bool{1: true},
		},
		"chain of datagram sockets": {
			nodes: map[uint64]unixNode{1: {path: "/host/log"}, 2: {peer: 1}, 3: {peer: 2}, 4: {peer: 5}, 5: {}},
			paths: []string{"/host"},
			want:  map[uint64]bool{1: true, 2: true, 3: true},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			qt.Assert(t, qt.DeepEquals(outsideUnix(test.nodes, test.paths), test.want))
		})
	}
}
