package probe

import "slices"

// smallest is the size that every way has to carry: IPv6 needs it (RFC 8200, 5).
const smallest = 1280

// atOnce is how many sizes are asked for at the same time.
const atOnce = 16

// usual are sizes that devices and tunnels have, and small steps between those that matter to
// channels; what is in between is tried after them.
var usual = []int{9000, 4352, 1500, 1492, 1480, 1460, 1440, 1420, 1400, 1380, 1360, 1340, 1320, 1300, smallest}

// search looks for the largest packet that a way carries. Sizes are those of IP packets.
type search struct {
	limit int         // the device's
	pass  int         // the largest that is known to come through; 0: none
	fail  int         // the smallest that is known not to
	tries map[int]int // how often sizes in between were asked for in vain
	found int         // what is told; 0: nothing is known yet
}

func newSearch(limit int) search {
	limit = min(limit, maxSize+28)
	return search{limit: limit, fail: limit + 1, tries: make(map[int]int)}
}

// low is the largest size that does not have to be asked for.
func (s *search) low() int { return max(s.pass, smallest-1) }

// done tells whether there is nothing to be asked for.
func (s *search) done() bool { return s.fail-s.low() <= 1 }

// next returns the sizes to ask for at once; none if the search is done.
func (s *search) next() (list []int) {
	add := func(n int) {
		if n > s.low() && n < s.fail && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	add(s.limit)
	for _, n := range usual {
		if len(list) < atOnce-1 || n == smallest {
			add(n)
		}
	}
	for i := 1; len(list) < atOnce && i <= atOnce; i++ {
		add(s.low() + (s.fail-s.low())*i/(atOnce+1))
	}
	return list
}

// passed notes that a size came through.
func (s *search) passed(n int) {
	s.pass, s.fail = max(s.pass, n), max(s.fail, n+1)
	if n == s.limit {
		s.found = n
	}
}

// lost notes that a size did not come through, and that it takes so many losses until that is
// believed. Smaller packets came through meanwhile.
func (s *search) lost(n, patience int) {
	if n <= s.pass {
		return
	}
	s.tries[n]++
	if s.tries[n] >= patience {
		s.refused(n)
	}
}

// refused notes that a size is too large.
func (s *search) refused(n int) {
	if n > s.pass {
		s.fail = min(s.fail, n)
	}
}

// settle is called when it is known what became of all that were asked for at once.
func (s *search) settle() {
	switch {
	case s.pass > 0:
		s.found = s.pass
	case s.done():
		s.found = smallest - 1
	}
}

// grow looks for larger sizes again.
func (s *search) grow() {
	s.fail = s.limit + 1
	clear(s.tries)
}

// shrink looks for a smaller size, since what was found does not come through any more.
func (s *search) shrink() {
	s.fail, s.pass = max(s.pass, smallest), 0
	clear(s.tries)
	if s.done() {
		s.settle()
	}
}
