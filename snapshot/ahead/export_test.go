package ahead

import "github.com/snapctl/snapctl/snapshot/image/memmap"

// Left is what Frozen has found, by the numbers that images have.
func Left(m *Memory) map[uint32]*memmap.Left { return m.left }
