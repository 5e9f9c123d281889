package backlog

import (
	"os"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
)

// TestKfunc finds the numbers of functions as the package does that reads everything.
func TestKfunc(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 9))
	spec, err := btf.LoadKernelSpec()
	qt.Assert(t, qt.IsNil(err))
	for _, name := range []string{"bpf_skb_load_bytes", "tcp_v4_rcv", "inet_csk_accept"} {
		var fn *btf.Func
		if err := spec.TypeByName(name, &fn); err != nil {
			continue // another kernel
		}
		want, err := spec.TypeID(fn)
		qt.Assert(t, qt.IsNil(err))
		got, err := kfunc(name)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(got, int32(want)), qt.Commentf("%s", name))
	}
	_, err = kfunc("no_such_function_of_linux")
	qt.Check(t, qt.ErrorIs(err, errNoFunc))
}

func FuzzFindFunc(f *testing.F) {
	if b, err := os.ReadFile("/sys/kernel/btf/vmlinux"); err == nil {
		f.Add(b[:1<<12])
	}
	f.Add([]byte{0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 12, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 'f', 'n', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := findFunc(b, "fn")
		qt.Check(t, qt.Equals(err == nil, id > 0))
	})
}
