package underlay

// Lost says how many of the first frames a program drops at a loss.
func Lost(percent float64, seed, frames uint64) uint64 {
	s := setting{Loss: threshold(percent), Seed: seed}
	var lost uint64
	for n := range frames {
		if s.isLost(n) {
			lost++
		}
	}
	return lost
}
