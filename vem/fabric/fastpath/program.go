package fastpath

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// insn is struct bpf_insn (include/uapi/linux/bpf.h). Both targets that matter
// are little endian, where the first register is the low half of regs.
type insn struct {
	code uint8
	regs uint8
	off  int16
	imm  int32
}

func op(code int, dst, src uint8, off int16, imm int32) insn {
	return insn{uint8(code), dst | src<<4, off, imm}
}

// Registers. r1 to r5 carry arguments and are lost in calls; r6 to r9 survive.
const (
	r0 uint8 = iota
	r1
	r2
	r3
	r4
	r5
	r6
	r7
	_
	_
	fp
)

func mov(dst, src uint8) insn        { return op(unix.BPF_ALU64|0xb0|unix.BPF_X, dst, src, 0, 0) }
func movImm(dst uint8, v int32) insn { return op(unix.BPF_ALU64|0xb0|unix.BPF_K, dst, 0, 0, v) }
func addImm(dst uint8, v int32) insn { return op(unix.BPF_ALU64|unix.BPF_ADD|unix.BPF_K, dst, 0, 0, v) }

func load(dst, src uint8, o int) insn {
	return op(unix.BPF_LDX|unix.BPF_MEM|unix.BPF_W, dst, src, int16(o), 0)
}

func store(dst uint8, o int, src uint8) insn {
	return op(unix.BPF_STX|unix.BPF_MEM|unix.BPF_W, dst, src, int16(o), 0)
}

func storeImm(dst uint8, o int, v int32) insn {
	return op(unix.BPF_ST|unix.BPF_MEM|unix.BPF_W, dst, 0, int16(o), v)
}
func call(helper int32) insn { return op(unix.BPF_JMP|unix.BPF_CALL, 0, 0, 0, helper) }
func exit() insn             { return op(unix.BPF_JMP|unix.BPF_EXIT, 0, 0, 0, 0) }

// loadMap is the two-slot instruction that the verifier turns into the map's
// address.
func loadMap(dst uint8, fd int) []insn {
	return []insn{op(unix.BPF_LD|unix.BPF_DW|unix.BPF_IMM, dst, unix.BPF_PSEUDO_MAP_FD, 0, int32(fd)), {}}
}

// code collects instructions and resolves jumps to labels.
type code struct {
	list   []insn
	labels map[string]int
	jumps  map[int]string
}

func (c *code) add(list ...insn) { c.list = append(c.list, list...) }

func (c *code) label(name string) { c.labels[name] = len(c.list) }

// jump adds a conditional jump; o is the comparison, with BPF_K or BPF_X.
func (c *code) jump(o int, dst, src uint8, v int32, to string) {
	c.jumps[len(c.list)] = to
	c.add(op(unix.BPF_JMP|o, dst, src, 0, v))
}

func (c *code) bytes() []byte {
	for at, to := range c.jumps {
		c.list[at].off = int16(c.labels[to] - at - 1)
	}
	out := make([]byte, 0, 8*len(c.list))
	for _, i := range c.list {
		out = append(out, i.code, i.regs)
		out = binary.NativeEndian.AppendUint16(out, uint16(i.off))
		out = binary.NativeEndian.AppendUint32(out, uint32(i.imm))
	}
	return out
}

// Offsets in struct __sk_buff.
const (
	skbProtocol = 16
	skbIfindex  = 40
	skbData     = 76
	skbDataEnd  = 80
)

const (
	helperMapLookup    = 1
	helperRedirectPeer = 155 // Linux 5.10
	actUnspec          = -1  // TC_ACT_UNSPEC: go on as if the program were not there
	ethLen             = 14
	keySrc, keyDst     = -16, -32 // on the stack
)

// program assembles, for the ingress of a fabric device:
//
//	src, dst := addresses of the packet, IPv4 ones as ::ffff:a.b.c.d
//	if table[src] == this device && table[dst] exists && is another device {
//	        give the packet to the other end of that device
//	}
//	else let the kernel route it
//
// Only endpoints' own packets pass, so a forged source is left to the kernel's
// reverse path filter. Anything unusual (short, split over fragments of the
// buffer, neighbour discovery, multicast, VLAN) is not in the table or fails the
// bounds check, and takes the kernel's path too.
func program(mapFD int) []byte {
	c := &code{labels: map[string]int{}, jumps: map[int]string{}}
	bounds := func(length int32) { // r2 = data; r5 is lost
		c.add(mov(r5, r2), addImm(r5, length))
		c.jump(unix.BPF_JGT|unix.BPF_X, r5, r3, 0, "kernel")
	}
	c.add(
		mov(r6, r1),
		load(r7, r6, skbIfindex),
		load(r2, r6, skbData),
		load(r3, r6, skbDataEnd),
		load(r4, r6, skbProtocol),
	)
	c.jump(unix.BPF_JEQ|unix.BPF_K, r4, 0, network16(unix.ETH_P_IPV6), "ipv6")
	c.jump(unix.BPF_JNE|unix.BPF_K, r4, 0, network16(unix.ETH_P_IP), "kernel")

	bounds(ethLen + 20)
	for _, k := range []struct{ key, at int }{{keySrc, ethLen + 12}, {keyDst, ethLen + 16}} {
		c.add(
			load(r1, r2, k.at),
			storeImm(fp, k.key, 0),
			storeImm(fp, k.key+4, 0),
			storeImm(fp, k.key+8, network32(0xffff)),
			store(fp, k.key+12, r1),
		)
	}
	c.jump(unix.BPF_JA, 0, 0, 0, "look")

	c.label("ipv6")
	bounds(ethLen + 40)
	for i := range 4 {
		c.add(
			load(r1, r2, ethLen+8+4*i), store(fp, keySrc+4*i, r1),
			load(r1, r2, ethLen+24+4*i), store(fp, keyDst+4*i, r1),
		)
	}

	c.label("look")
	look := func(key int32) { // r1 = table[key]
		c.add(loadMap(r1, mapFD)...)
		c.add(mov(r2, fp), addImm(r2, key), call(helperMapLookup))
		c.jump(unix.BPF_JEQ|unix.BPF_K, r0, 0, 0, "kernel")
		c.add(load(r1, r0, 0))
	}
	look(keySrc)
	c.jump(unix.BPF_JNE|unix.BPF_X, r1, r7, 0, "kernel")
	look(keyDst)
	c.jump(unix.BPF_JEQ|unix.BPF_X, r1, r7, 0, "kernel")
	c.add(movImm(r2, 0), call(helperRedirectPeer), exit())

	c.label("kernel")
	c.add(movImm(r0, actUnspec), exit())
	return c.bytes()
}

// network16 and network32 return a value as a load from the packet sees it.
func network16(v uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)))
}

func network32(v uint32) int32 {
	return int32(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, v)))
}
