package image

// Bits of vma_entry.status (criu/include/image.h).
const (
	vmaRegular     = 1 << 0
	vmaStack       = 1 << 1
	vmaVsyscall    = 1 << 2
	vmaVDSO        = 1 << 3
	vmaHeap        = 1 << 5
	vmaFilePrivate = 1 << 6
	vmaFileShared  = 1 << 7
	vmaAnonShared  = 1 << 8
	vmaAnonPrivate = 1 << 9
	vmaSysV        = 1 << 10
	vmaSocket      = 1 << 11
	vmaVvar        = 1 << 12
	vmaAIO         = 1 << 13
	vmaMemfd       = 1 << 14
	vmaShadowStack = 1 << 15
	vmaGuard       = 1 << 16
)

// mapGrowsDown is MAP_GROWSDOWN, which since 3.x is all that tells a stack:
// CRIU no longer sets vmaStack.
const mapGrowsDown = 0x100
