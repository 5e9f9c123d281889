package fabric

import "github.com/snapctl/snapctl/vem/fabric/fastpath"

// ForgetFastPath makes a fabric as it is where BPF is not supported.
func (f *Fabric) ForgetFastPath() {
	f.fast.Close() //nolint:errcheck // a handle
	f.fast, f.fastPath = nil, fastpath.ErrUnsupported
}
