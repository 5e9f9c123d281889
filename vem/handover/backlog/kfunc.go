package backlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// The format of what the kernel tells of its types: include/uapi/linux/btf.h.
const (
	btfMagic  = 0xeb9f
	btfHeader = 24
	btfType   = 12
	kindFunc  = 12
	btfKinds  = 20
)

// tails is how much follows struct btf_type, by kind: that much for each of its vlen members,
// and that much once.
var tails = [btfKinds]struct{ each, once int }{
	1: {0, 4}, 3: {0, 12}, 4: {12, 0}, 5: {12, 0}, 6: {8, 0}, 13: {8, 0}, 14: {0, 4}, 15: {12, 0}, 17: {0, 4}, 19: {12, 0},
}

var errBTF = errors.New("the kernel's description of its types is not understood")

// kfunc finds the number of a function of the kernel that programs may call. (The packages
// that read all that the kernel tells take a hundred milliseconds for it, and their caches 50 MB.)
func kfunc(name string) (int32, error) {
	b, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		return 0, fmt.Errorf("look for the kernel's function %s: %w", name, err)
	}
	id, err := findFunc(b, name)
	if err != nil {
		return 0, fmt.Errorf("look for the kernel's function %s: %w", name, err)
	}
	return id, nil
}

func findFunc(b []byte, name string) (int32, error) {
	ne := binary.NativeEndian
	if len(b) < btfHeader || ne.Uint16(b) != btfMagic {
		return 0, errBTF
	}
	header, types, size := uint64(ne.Uint32(b[4:])), uint64(ne.Uint32(b[8:])), uint64(ne.Uint32(b[12:]))
	texts, length := uint64(ne.Uint32(b[16:])), uint64(ne.Uint32(b[20:]))
	if header+types+size > uint64(len(b)) || header+texts+length > uint64(len(b)) {
		return 0, errBTF
	}
	names := b[header+texts:][:length]
	at := bytes.Index(names, append(append([]byte{0}, name...), 0))
	if at < 0 {
		return 0, errNoFunc
	}
	list := b[header+types:][:size]
	for id := int32(1); len(list) >= btfType; id++ {
		info := ne.Uint32(list[4:])
		kind, members := info>>24&0x1f, int(info&0xffff)
		if kind == kindFunc && ne.Uint32(list) == uint32(at+1) {
			return id, nil
		}
		if kind >= btfKinds {
			return 0, errBTF
		}
		n := btfType + tails[kind].once + members*tails[kind].each
		if n > len(list) {
			return 0, errBTF
		}
		list = list[n:]
	}
	return 0, errNoFunc
}

var errNoFunc = errors.New("there is none: it is in Linux 6.9")
