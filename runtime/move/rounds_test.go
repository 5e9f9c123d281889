package move

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

func TestAnother(t *testing.T) {
	ms := func(took ...int) (list []Round) {
		for _, n := range took {
			list = append(list, Round{Took: time.Duration(n) * time.Millisecond})
		}
		return list
	}
	for name, test := range map[string]struct {
		rounds   []Round
		maxPause time.Duration
		want     bool
	}{
		"the first is always sent":     {nil, 0, true},
		"short":                        {ms(200), 0, false},
		"long":                         {ms(5000), 0, true},
		"shrinks":                      {ms(5000, 2000), 0, true},
		"shrinks no more":              {ms(5000, 2000, 1900), 0, false},
		"short enough":                 {ms(5000, 250), 250 * time.Millisecond, false},
		"not short enough":             {ms(5000, 250), 249 * time.Millisecond, true},
		"does not become short enough": {ms(5000, 250, 250), 100 * time.Millisecond, false},
		"enough of it":                 {ms(90000, 40000, 20000, 10000, 7000, 5000, 3000, 2000), time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) { qt.Check(t, qt.Equals(another(test.rounds, test.maxPause), test.want)) })
	}
}

func TestNamesOfJourneys(t *testing.T) {
	j := newJourney()
	qt.Check(t, qt.Equals(journeyOf(nameOf(j, 3)), j))
	for _, name := range []string{"cache-1", "moving-", "moving-x", "", "moving-house-1", "x" + nameOf(j, 1), nameOf(j, 1) + "x"} {
		qt.Check(t, qt.Equals(journeyOf(name), ""), qt.Commentf("%s", name))
	}
	qt.Check(t, qt.Not(qt.Equals(newJourney(), j)))
}

// A snapshot is taken only of a journey that is under way, and from the host that makes it.
func TestJourneys(t *testing.T) {
	var js journeys
	qt.Check(t, qt.IsFalse(js.from("a", "alpha")))
	qt.Check(t, qt.IsTrue(js.begin("a", "alpha")))
	qt.Check(t, qt.IsFalse(js.begin("a", "beta")))
	qt.Check(t, qt.IsTrue(js.from("a", "alpha")))
	qt.Check(t, qt.IsFalse(js.from("a", "beta")))
	qt.Check(t, qt.IsFalse(js.from("", "")))
	js.end("a")
	qt.Check(t, qt.IsFalse(js.from("a", "alpha")))
}
