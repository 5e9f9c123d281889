package ahead

import "github.com/snapctl/snapctl/snapshot/image/memmap"

// OwnWasted is what Complete does before all else, of an app that goes on.
func OwnWasted(m *Memory) { m.ownWasted() }

// Left is what Frozen has found, by the numbers that images have.
func Left(m *Memory) map[uint32]*memmap.Left { return m.left }
