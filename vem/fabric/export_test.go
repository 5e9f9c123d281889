package fabric

import "github.com/snapctl/snapctl/vem/fabric/fastpath"

// ForgetFastPath makes a fabric as it is where BPF is not supported.
func (f *Fabric) ForgetFastPath() {
	f.fast.Close()
	f.fast, f.fastPath = nil, fastpath.ErrUnsupported
}

// ReadMapping reads a device's alias and returns the one that it would be given.
func ReadMapping(alias string) string { return parseMapping(alias).String() }
