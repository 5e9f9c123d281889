// Package bpfmap has what maps of BPF programs need beyond single calls: many values at once, maps
// by addresses, and maps by prefixes, of which the longest counts that has an address.
//
// An address in a key has 16 bytes, an IPv4 one as ::ffff:a.b.c.d.
package bpfmap

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// PutAll sets many values with few calls, where the kernel can (Linux 5.6).
func PutAll[K, V any](m *ebpf.Map, keys []K, values []V, what string) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := m.BatchUpdate(keys, values, nil)
	if err == nil {
		return nil
	}
	for i, k := range keys {
		if err := m.Put(k, values[i]); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// Numbers returns what a map of numbers by addresses has.
func Numbers(m *ebpf.Map) (map[netip.Addr]int, error) {
	found := make(map[netip.Addr]int)
	var key [16]byte
	var value uint64
	all := m.Iterate()
	for all.Next(&key, &value) {
		found[netip.AddrFrom16(key).Unmap()] = int(value)
	}
	return found, all.Err()
}

// Prefix is what a number is for in a map of prefixes. Prefixes of several classes are in one map,
// and have nothing to do with each other.
type Prefix struct {
	Class  int
	Prefix netip.Prefix
}

// prefixKey is a Prefix as the kernel has it (struct bpf_lpm_trie_key_u8 in
// include/uapi/linux/bpf.h): the class is the beginning of the address.
type prefixKey struct {
	Bits  uint32
	Class uint32 // of this host's byte order: it is compared as a whole
	Addr  [16]byte
}

const (
	classBits = 32
	addrBits  = 128
	// KeySize is how many bytes of the stack [Find] needs.
	KeySize = 24
)

// Prefixes is how to make a map of prefixes. It needs Linux 4.16, to list what it has.
func Prefixes(entries uint32) ebpf.MapSpec {
	return ebpf.MapSpec{Type: ebpf.LPMTrie, KeySize: KeySize, ValueSize: 8, MaxEntries: entries, Flags: unix.BPF_F_NO_PREALLOC}
}

func (p Prefix) key() prefixKey {
	bits := p.Prefix.Bits()
	if p.Prefix.Addr().Is4() {
		bits += addrBits - 32
	}
	return prefixKey{classBits + uint32(bits), uint32(p.Class), p.Prefix.Masked().Addr().As16()}
}

func (k prefixKey) prefix() Prefix {
	a, bits := netip.AddrFrom16(k.Addr), int(k.Bits)-classBits
	if a.Is4In6() && bits >= addrBits-32 {
		a, bits = a.Unmap(), bits-(addrBits-32)
	}
	return Prefix{int(k.Class), netip.PrefixFrom(a, bits)}
}

// List returns what a map of prefixes has.
func List(m *ebpf.Map) (map[Prefix]int, error) {
	found := make(map[Prefix]int)
	var key prefixKey
	var value uint64
	all := m.Iterate()
	for all.Next(&key, &value) {
		found[key.prefix()] = int(value)
	}
	return found, all.Err()
}

// Set has a map of prefixes have these numbers and no others. What stays is there all the time.
func Set(m *ebpf.Map, want map[Prefix]int) error {
	have, err := List(m)
	if err != nil {
		return fmt.Errorf("list prefixes: %w", err)
	}
	for p, number := range want {
		if now, ok := have[p]; ok && now == number {
			continue
		}
		if err := m.Put(p.key(), uint64(number)); err != nil {
			return fmt.Errorf("add prefix %s: %w", p.Prefix, err)
		}
	}
	for p := range have {
		if _, ok := want[p]; ok {
			continue
		}
		if err := m.Delete(p.key()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove prefix %s: %w", p.Prefix, err)
		}
	}
	return nil
}

// Find assembles a look-up: it leaves a pointer to the number in r0, or goes to the label none. The
// address is on the stack, at addr. The class is a word of the stack, at class; 0: it is class 0.
// The look-up needs KeySize bytes of the stack, at key, and changes r1 to r5.
func Find(m *ebpf.Map, key, class, addr int16, none string) asm.Instructions {
	list := asm.Instructions{
		asm.StoreImm(asm.RFP, key, classBits+addrBits, asm.Word),
		asm.Mov.Imm(asm.R1, 0),
	}
	if class != 0 {
		list = append(list, asm.LoadMem(asm.R1, asm.RFP, class, asm.Word))
	}
	list = append(list, asm.StoreMem(asm.RFP, key+4, asm.R1, asm.Word))
	for i := int16(0); i < 16; i += 8 {
		list = append(list,
			asm.LoadMem(asm.R1, asm.RFP, addr+i, asm.DWord),
			asm.StoreMem(asm.RFP, key+8+i, asm.R1, asm.DWord),
		)
	}
	return append(list,
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(key)),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
	)
}
