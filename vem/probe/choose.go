package probe

// Choose returns which of the ways to a host its channels are to take: the index of one of list,
// the best of which is the first, or -1 to leave them as they are. now is the one that they take,
// or -1 if that is none of the list, such as when its address is gone.
//
// A way that works is left only for a better one that is steady, or if it loses much, for any
// that is steady. A way that does not work is left for the first that does; a single echo is no
// proof of that, since it may only have come sooner than that of the present way.
func Choose(list []Way, now int) int {
	state := Down
	if now >= 0 {
		state = list[now].State
	}
	for i, w := range list {
		switch {
		case w.State != Up || !w.Steady:
		case i == now:
			return -1
		case now < 0 || i < now || state == Lossy || state == Down:
			return i
		}
	}
	if state != Down {
		return -1
	}
	for _, fits := range []func(Way) bool{
		func(w Way) bool { return w.State == Up && w.Run >= 2 },
		func(w Way) bool { return w.State == Lossy },
		func(w Way) bool { return now < 0 && w.State == Unknown },
	} {
		for i, w := range list {
			if i != now && fits(w) {
				return i
			}
		}
	}
	return -1
}
